"""The seeded archive of labelled digests: what the demo learns from and is judged by."""

import json
from collections import Counter
from pathlib import Path

import pytest

from training_service.sections import (
    HELD_OUT_ROWS,
    PROMPT,
    SECTIONS,
    SEED,
    TRAINING_ROWS,
    archive_text,
    new_archive,
    write_archive,
)

SHIPPED = Path(__file__).parents[2] / "specs" / "data"


def test_no_topic_word_belongs_to_two_sections() -> None:
    words = [word for section in SECTIONS.values() for word in section]

    assert len(words) == len(set(words)) == 60


@pytest.mark.parametrize("seed", range(4))
def test_no_row_is_shared_or_repeated(seed: int) -> None:
    training, held_out = new_archive(seed)

    texts = [digest.text for digest in (*training, *held_out)]
    assert len(texts) == len(set(texts)) == TRAINING_ROWS + HELD_OUT_ROWS


@pytest.mark.parametrize("seed", range(4))
def test_sections_are_balanced(seed: int) -> None:
    for part in new_archive(seed):
        counts = Counter(digest.section for digest in part)

        assert set(counts) == set(SECTIONS)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_each_digest_has_most_topic_words_of_its_own_section_and_some_lures() -> None:
    owner = {word: name for name, words in SECTIONS.items() for word in words}
    training, held_out = new_archive(3)

    for digest in (*training, *held_out):
        words = digest.text.lower().replace(".", " ").replace(",", " ").split()
        counts = Counter(owner[word] for word in words if word in owner)
        assert counts.most_common(1)[0][0] == digest.section, digest
        assert counts[digest.section] * 2 > counts.total(), digest
        assert len(counts) > 1, digest


def test_one_seed_gives_one_archive_and_another_seed_another() -> None:
    assert new_archive(1) == new_archive(1)
    assert not set(new_archive(1)[0]) & set(new_archive(2)[0])


def test_a_row_is_a_chat_that_ends_with_the_section() -> None:
    digest = new_archive(0, n_training=1, n_held_out=0)[0][0]

    user, assistant = json.loads(digest.as_row())["messages"]
    assert user == {"role": "user", "content": PROMPT + digest.text}
    assert assistant == {"role": "assistant", "content": digest.section}


def test_the_shipped_files_are_what_the_grammar_gives(tmp_path: Path) -> None:
    for path in write_archive(tmp_path, SEED):
        shipped = SHIPPED / path.name

        assert shipped.read_text(encoding="utf-8") == path.read_text(encoding="utf-8"), (
            f"{shipped.name} is stale: run `python -m training_service.sections specs/data`"
        )


def test_archive_text_has_one_line_for_each_digest() -> None:
    training, _ = new_archive(5, n_training=7, n_held_out=0)

    assert len(archive_text(training).splitlines()) == 7
