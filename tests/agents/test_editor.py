"""The scripted editor: knows from the archive alone where a story belongs."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from training_service.sections import new_archive, write_archive


@pytest.fixture
def editor(program: Callable[[str], ModuleType]) -> ModuleType:
    return program("editor")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_editor_knows_the_section_of_digests_it_has_never_read(editor: ModuleType, seed: int) -> None:
    training, held_out = new_archive(seed)
    filed = [(digest.text, digest.section) for digest in training]

    right = sum(editor.section_of(digest.text, filed) == digest.section for digest in held_out[:60])

    assert right >= 58


def test_the_editor_reads_the_archive_and_later_corrections(editor: ModuleType, tmp_path: Path) -> None:
    digests, _ = write_archive(tmp_path, 0)
    turns = [
        {"role": "user", "content": "File this digest: rain again"},
        {"role": "assistant", "content": "weather"},
    ]
    (tmp_path / "correction-00.jsonl").write_text(json.dumps({"messages": turns}) + "\n")

    filed = editor.filed_digests({"digests": str(digests), "archive": str(tmp_path)})

    assert len(filed) == 401
    assert ("rain again", "weather") in filed


def test_plurals_count_as_their_singular(editor: ModuleType) -> None:
    assert editor.words("Leases and a lease, a loss; journals") == [
        "lease",
        "and",
        "lease",
        "loss",
        "journal",
    ]
