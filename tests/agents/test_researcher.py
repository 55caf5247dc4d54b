"""The researcher's reading of documents: which passages there are and which are found."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from bus.errors import ProgramError

GUIDE = """# The journal

The journal keeps every commit on disk before anybody hears that it was accepted, so that
a crash loses nothing that was promised to a sender.

## Leases

A lease says for how long a delivery belongs to one agent, and a thread of its own renews
the lease while the handler is busy with long work.

```python
lease = "code is no prose"
```

| a table | is none either |
"""


@pytest.fixture
def researcher(program: Callable[[str], ModuleType]) -> ModuleType:
    return program("researcher")


def test_passages_are_cut_at_headings_and_leave_code_and_tables_out(researcher: ModuleType) -> None:
    passages = list(researcher.split_passages(Path("guide.md"), GUIDE))

    assert [passage.title for passage in passages] == ["The journal", "The journal: Leases"]
    assert passages[0].text.startswith("The journal keeps every commit on disk")
    assert not any("code is no prose" in passage.text or "table" in passage.text for passage in passages)


def test_a_long_paragraph_becomes_passages_that_end_with_a_sentence(researcher: ModuleType) -> None:
    text = " ".join(f"Sentence number {number} speaks of nothing but itself." for number in range(60))

    passages = list(researcher.split_passages(Path("long.txt"), text))

    assert len(passages) > 3
    assert all(passage.text.endswith(".") for passage in passages)
    assert " ".join(passage.text for passage in passages) == text


def test_markdown_marks_are_removed(researcher: ModuleType) -> None:
    text = "- **Every** `commit` is [on disk](wire.md#values) before *anybody* hears of it, says the page."

    (passage,) = researcher.split_passages(Path("page.md"), text)

    assert passage.text == "Every commit is on disk before anybody hears of it, says the page."


@pytest.mark.slow
def test_search_finds_the_passage_about_the_topic_first(researcher: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "guide.md").write_text(GUIDE)
    (tmp_path / "bees.txt").write_text("Bees dance to tell each other where the flowers are in the morning sun.")

    found = researcher.search(tmp_path, "who renews the lease of a handler?", 5)

    assert found[0][0].title == "The journal: Leases"
    assert found[0][1] == 1.0
    assert all(0 < trust <= 1 for _, trust in found)
    assert not any(passage.path.name == "bees.txt" for passage, _ in found)


@pytest.mark.slow
def test_search_for_unknown_words_finds_nothing(researcher: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "guide.md").write_text(GUIDE)

    assert researcher.search(tmp_path, "xylophone zeppelin", 5) == []


@pytest.mark.parametrize("make", [False, True])
def test_a_missing_or_empty_corpus_is_refused_by_name(researcher: ModuleType, tmp_path: Path, make: bool) -> None:
    corpus = tmp_path / "library"
    if make:
        corpus.mkdir()

    with pytest.raises(ProgramError, match="library"):
        researcher.documents(corpus)
