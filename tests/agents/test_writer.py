"""The writer's own decisions: what is filed, kept, collected and remembered."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from training_service.sections import PROMPT

MESSAGE_ID = bytes(range(16))


@pytest.fixture
def writer(program: Callable[[str], ModuleType]) -> ModuleType:
    return program("writer")


def test_the_writer_asks_in_the_words_of_the_archive(writer: ModuleType) -> None:
    assert writer.PROMPT == PROMPT


def test_only_the_opening_words_of_a_digest_are_filed(writer: ModuleType) -> None:
    assert writer.filed("word " * 100).split() == ["word"] * writer.MAX_FILED_WORDS


@pytest.mark.parametrize(
    ("answer", "section"),
    [
        ("storage", "storage"),
        (" storage\n", "storage"),
        ("a\x00\x1bb\ufffd", "a b\ufffd"),
        ("\n\x07", "unfiled"),
    ],
)
def test_an_answer_of_the_model_becomes_one_printable_line(writer: ModuleType, answer: str, section: str) -> None:
    assert writer.clean(answer) == section


def test_a_correction_is_kept_once_however_often_it_is_handled(writer: ModuleType, tmp_path: Path) -> None:
    for _ in range(3):
        writer.keep_correction(tmp_path, MESSAGE_ID, "the disk is full", "storage")

    dataset, n_rows = writer.collect(tmp_path, MESSAGE_ID)
    user, assistant = json.loads(dataset.read_text())["messages"]
    assert n_rows == 1
    assert user["content"] == PROMPT + "the disk is full"
    assert assistant["content"] == "storage"


def test_the_dataset_of_a_message_stays_as_it_was_when_the_message_first_came(
    writer: ModuleType, tmp_path: Path
) -> None:
    writer.keep_correction(tmp_path, MESSAGE_ID, "the disk is full", "storage")
    before = writer.artifact(writer.collect(tmp_path, MESSAGE_ID)[0])
    writer.keep_correction(tmp_path, bytes(16), "who answers the inbox", "people")

    assert writer.artifact(writer.collect(tmp_path, MESSAGE_ID)[0]) == before
    assert writer.collect(tmp_path, bytes(16))[1] == 2


def test_the_newest_adapter_is_remembered_for_later_stories(writer: ModuleType, tmp_path: Path) -> None:
    assert writer.remembered_adapter(tmp_path) is None

    writer.remember_adapter(tmp_path, "sections@1")
    writer.remember_adapter(tmp_path, "sections@2")

    assert writer.remembered_adapter(tmp_path) == "sections@2"


def test_comments_bring_the_sentences_that_they_speak_of_to_the_front(writer: ModuleType) -> None:
    body = "Bees dance. Leases are renewed by threads. The end is near."

    assert writer.rework(body, "begin with the threads").startswith("Leases are renewed by threads.")
    assert writer.rework(body, "make it shorter") == "Bees dance. Leases are renewed by threads."
