"""docs/calls.md: its files are in order, and each edit in its table breaks the rule beside it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bus.spec.compile import check_path, load_protocol

PAGE = (Path(__file__).parents[2] / "docs" / "calls.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```yaml (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
ROWS = re.findall(r"^\| ([EW]-[A-Z-]+) \|.*\| `(.*?)` by `(.*?)` \|$", PAGE, re.MULTILINE)


def write(folder: Path, old: str = "", new: str = "") -> int:
    """Write the files of the page with *old* replaced; return in how many it stood."""
    n_changed = 0
    for name, text in FILES.items():
        changed = text.replace(old, new.replace("⏎", "\n")) if old else text
        n_changed += changed != text
        (folder / name).write_text(changed, encoding="utf-8")
    return n_changed


def test_the_files_are_in_order_and_run(tmp_path: Path) -> None:
    write(tmp_path)

    assert {name: check_path(tmp_path / name)[1] for name in FILES} == {name: [] for name in FILES}
    show = load_protocol(tmp_path / "show.protocol.yaml")
    assert [one.name for one in show.messages] == ["Start", "Stop", "Report"]
    assert list(show.callees) == ["quiz@^1"]


@pytest.mark.parametrize(("rule", "old", "new"), ROWS, ids=[row[0] for row in ROWS])
def test_each_edit_breaks_its_rule(tmp_path: Path, rule: str, old: str, new: str) -> None:
    assert write(tmp_path, old, new) == 1

    found = [one.rule for one in check_path(tmp_path / "show.protocol.yaml")[1]]

    assert set(found) == {rule}


def test_the_table_has_all_rules_of_imports_and_calls() -> None:
    assert len(ROWS) == 11
