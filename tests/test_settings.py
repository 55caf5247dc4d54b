"""Settings come from the environment, and docs/settings.md shows them all."""

from dataclasses import fields
from pathlib import Path

import pytest

from bus.settings import Settings

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"


def table() -> str:
    rows = "".join(
        f"| `{one.name}` | {one.default:g} | `PALAVER_{one.name.upper()}` | {one.metadata['reason']} |\n"
        for one in fields(Settings)
    )
    return f"| setting | default | variable | why |\n| --- | --- | --- | --- |\n{rows}"


def test_page_shows_every_setting_with_its_reason() -> None:
    assert table() in PAGE.read_text()


def test_variable_changes_its_setting() -> None:
    assert Settings.from_environment({"PALAVER_LEASE": "2.5"}).lease == 2.5


def test_whole_numbers_stay_whole() -> None:
    assert isinstance(Settings.from_environment({"PALAVER_CREDIT": "7"}).credit, int)


def test_variable_that_is_no_number_is_named() -> None:
    with pytest.raises(ValueError, match="PALAVER_LEASE: expected a number, got 'long'"):
        Settings.from_environment({"PALAVER_LEASE": "long"})
