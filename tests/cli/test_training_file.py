"""Training files: a TrainRequest with paths instead of artifacts."""

import hashlib

import pytest

from bus.cli.training_file import load_training_file
from bus.errors import SpecError

GOOD = """\
training: sections
base: tiny-gemma3
method: lora
lora: {rank: 8}
dataset: rows.jsonl
max_steps: 10
learning_rate: 1.0e-3
"""


@pytest.fixture
def read(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"messages": []}\n')
    (tmp_path / "empty.jsonl").write_text("")

    def load(text):
        path = tmp_path / "my.training.yaml"
        path.write_text(text)
        return load_training_file(path)

    return load


def test_a_good_file_becomes_the_fields_of_a_request(read, tmp_path):
    order = read(GOOD)

    data = (tmp_path / "rows.jsonl").read_bytes()
    assert order.name == "sections"
    assert order.fields["lora"] == {"rank": 8}
    assert order.fields["dataset"] == {
        "uri": (tmp_path / "rows.jsonl").as_uri(),
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "media_type": "application/jsonl",
    }


@pytest.mark.parametrize(
    ("old", "new", "at", "message"),
    [
        ("rows.jsonl", "rosw.jsonl", "rosw.jsonl", "E-NO-DATA: dataset: expected a file, got 'rosw.jsonl'"),
        ("rows.jsonl", "empty.jsonl", "empty.jsonl", "E-NO-DATA: dataset: expected data, got an empty file"),
        ("max_steps", "max_step", "max_step", "did you mean 'max_steps'?"),
        ("rank: 8", "rank: 0", "0}", "lora.rank: expected greater than or equal to 1, got 0"),
        ("rank: 8", "rang: 8", "8}", "lora.rang: expected"),
        ("method: lora", "method: lorra", "lorra", "method: expected 'full' or 'lora', got 'lorra'"),
        ("base: tiny-gemma3\n", "", "training", "expected 'base', which is missing"),
        ("method: lora", "method: full", "training", "expected a message of which"),
        ("sections", "My Sections", "My Sections", "expected a name"),
    ],
)
def test_a_mistake_is_placed_and_explained(read, old, new, at, message):
    text = GOOD.replace(old, new, 1)
    before = text[: text.index(at)]
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")

    with pytest.raises(SpecError) as caught:
        read(text)

    assert message in str(caught.value)
    assert f"my.training.yaml:{line}:{column}: " in str(caught.value)


def test_the_task_is_not_for_the_file_to_name(read):
    with pytest.raises(SpecError, match="'task_id'"):
        read(GOOD + "task_id: 00000000-0000-0000-0000-000000000000\n")
