"""No block of docs/training.md is without a test: a new one must be claimed here, and run or checked where it says."""

from collections import Counter
from pathlib import Path

import pytest
from training_page import PAGE, page_blocks

FIRST = "From a file to a served adapter"
DATA = "Data and its audit"
WAYS = "Ways to train"
RANKS = "Over several processes"
RUNS = "Runs: the queue, their owners, and what survives what"
SHELF = "Adapters and artifacts"
OPENAI = "From the OpenAI client"

CLAIMS: dict[tuple[str, str], tuple[int, str]] = {
    (FIRST, "jsonl"): (1, "test_page_tour"),
    (FIRST, "yaml"): (2, "test_page_tour"),
    (FIRST, "sh"): (3, "test_page_tour"),
    (FIRST, "python"): (1, "test_page_tour"),
    (DATA, "jsonl"): (2, "test_data_docs"),
    (DATA, "yaml"): (1, "test_data_docs"),
    (DATA, "sh"): (1, "test_data_docs"),
    (WAYS, "yaml"): (3, "test_methods_docs"),
    (RANKS, "yaml"): (2, "test_rank_processes"),
    (RANKS, "sh"): (1, "test_ranks"),
    (RUNS, "sh"): (1, "test_page_tour"),
    (RUNS, "python"): (1, "test_training_docs"),
    (SHELF, "sh"): (1, "test_page_tour"),
    (OPENAI, "sh"): (1, "test_openai_face"),
    (OPENAI, "python"): (1, "test_openai_face"),
}
"""(section, language) → how many blocks there are, and the module whose tests run them or hold them to the code."""


def test_every_block_of_the_page_is_claimed_and_no_claim_is_left_over() -> None:
    found = Counter((one.section, one.language) for one in page_blocks())

    assert found == {block: n_blocks for block, (n_blocks, _) in CLAIMS.items()}


@pytest.mark.parametrize(("section", "language"), CLAIMS)
def test_module_that_claims_a_block_reads_it(section: str, language: str) -> None:
    _, module = CLAIMS[section, language]
    source = (Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8")

    assert section in source


def test_page_has_no_fences_that_are_not_seen() -> None:
    text = PAGE.read_text(encoding="utf-8")

    assert text.count("```") == 2 * len(list(page_blocks()))
    assert "~~~" not in text
