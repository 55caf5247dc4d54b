"""What ``palaver adapters`` shows, from what the service answers."""

import subprocess
import sys

import pytest

from bus.cli.adapters import _print_list, _print_one, find_adapter
from bus.cli.output import console
from bus.cli.service import NoAnswer
from bus.spec.compile import load_protocol


def one(version: int, **changes: object) -> dict[str, object]:
    fields: dict[str, object] = {
        "name": "colors", "version": version, "kind": "adapter", "base": "tiny", "base_sha256": "1" * 64,
        "artifact": {"uri": "file:///a", "sha256": "2" * 64, "size": 1, "media_type": "x"}, "aliases": [],
        "method": "lora", "metrics": {"loss": 0.25}, "task_id": "5b0c1f0e-4b7c-4a55-9d0f-0f6f3a6a3a11",
        "conversation_id": None, "dataset_sha256": "3" * 64, "seed": 0, "versions": {"torch": "2"},
    }  # fmt: skip
    return fields | changes


LISTED = [one(1, aliases=["stable"]), one(10), one(2)]


def test_the_list_has_a_line_for_each_version(capsys: pytest.CaptureFixture[str]) -> None:
    _print_list(LISTED)

    printed = capsys.readouterr().out
    assert all(word in printed for word in ("colors@1 ", "colors@10", "stable", "0.25"))


def test_no_adapters_yet_is_said_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    _print_list([])

    assert "no adapters yet" in capsys.readouterr().out


def test_one_is_shown_with_where_it_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    _print_one(one(3, aliases=["stable"]))

    printed = capsys.readouterr().out
    assert "colors@3" in printed
    assert "3" * 64 in printed
    assert "conversation" not in printed


@pytest.mark.parametrize(("reference", "version"), [("colors", 10), ("colors@2", 2), ("stable", 1)])
def test_a_reference_means_the_newest_a_version_or_an_alias(reference: str, version: int) -> None:
    assert find_adapter(LISTED, reference)["version"] == version


def test_a_reference_that_means_nothing_is_refused() -> None:
    with pytest.raises(NoAnswer, match="colours"):
        find_adapter(LISTED, "colours")


def test_what_is_shown_is_what_the_protocol_has() -> None:
    (struct,) = [one for one in load_protocol("adapters").spec.types if one.name == "Adapter"]

    assert set(one(1)) == {field.name for field in struct.fields}


@pytest.mark.slow
@pytest.mark.integration
def test_arguments_that_do_not_belong_together_are_refused(tmp_path) -> None:
    for arguments in (
        ["list", "abc"],
        ["show"],
        ["alias", "abc"],
        ["delete", "abc", "def"],
        ["merge", "abc"],
        ["merge", "a", "b", "--name", "c"],
        ["show", "a", "--name", "c"],
    ):
        command = [sys.executable, "-m", "bus.cli", "adapters", *arguments]
        asked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert asked.returncode == 2, (arguments, asked.stderr)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "width", 160)
