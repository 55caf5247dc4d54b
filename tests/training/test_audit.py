"""The label audit: what it finds, what it refuses, and that nobody trains on what it warns of unasked."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training_service.audit import MAX_SHOWN, audit, check_warnings, show_example
from training_service.data import MAX_FILE_BYTES, MAX_LINE_BYTES, Dataset, Encoder, Example, load_dataset
from training_service.desk import Desk
from training_service.errors import WarningsFound
from training_service.event import Audit, Prepared, Refused
from training_service.model import Base
from training_service.record import find_record
from training_service.request import Artifact, TrainingRequest
from training_service.run import Places
from training_service.slots import Slots

NewRequest = Callable[..., TrainingRequest]
GOOD = {"prompt": "One?", "completion": "Two."}
OTHER = {"prompt": "Three?", "completion": "Four."}
MASKED = {"messages": [{"role": "user", "content": "One?"}]}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def found_in(path: Path, encoder: Encoder, base: Base, **how: object) -> Audit:
    return audit(load_dataset(path, encoder, **how), None, base.tokenizer, stop_ids=base.stop_ids)


def test_audit_finds_what_usually_means_wrong_labels(base: Base, tmp_path: Path) -> None:
    short = Encoder(base.tokenizer, stop_ids=base.stop_ids, max_tokens=40)
    long_row = {"messages": [{"role": "user", "content": "word " * 50}, {"role": "assistant", "content": "x"}]}
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    twice = {"text": "<bos>a"}
    path, held_out = tmp_path / "rows.jsonl", tmp_path / "held-out.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (good, good, long_row, twice, {"text": "<bos><bos>"})))
    held_out.write_text(json.dumps(good) + "\n")

    found = audit(
        load_dataset(path, short), load_dataset(held_out, short), base.tokenizer, stop_ids=base.stop_ids | {0}
    )

    assert (found.rows, found.rows_masked, found.rows_truncated, found.rows_shared_with_evaluation) == (5, 1, 1, 2)
    assert found.double_bos
    assert found.pad_is_eos
    assert found.stop_token_trained
    assert found.rows_duplicated == 1
    assert (len(found.notes), len(found.warnings)) == (2, 4)
    assert found.first_example.endswith("▌b<end_of_turn>·\n")


def test_audit_sees_that_the_end_of_a_turn_is_not_trained(base: Base, tmp_path: Path) -> None:
    blind = Encoder(base.tokenizer, stop_ids=frozenset(), max_tokens=100)
    dataset = load_dataset(write(tmp_path / "rows.jsonl", {"text": "hello"}), blind)

    found = audit(dataset, None, base.tokenizer, stop_ids=frozenset({399}))

    assert not found.stop_token_trained
    assert any("may not learn to stop" in warning for warning in found.warnings)


def test_good_data_has_neither_notes_nor_warnings(base: Base, encoder: Encoder, tmp_path: Path) -> None:
    found = found_in(write(tmp_path / "rows.jsonl", GOOD, OTHER), encoder, base)

    assert (found.notes, found.warnings) == ((), ())
    assert found.rows == 2
    assert 0 < found.trained_tokens < found.tokens
    check_warnings(found, accepted=False)


def test_findings_name_the_first_lines_they_are_about(base: Base, encoder: Encoder, tmp_path: Path) -> None:
    found = found_in(write(tmp_path / "rows.jsonl", GOOD, MASKED, GOOD, *[MASKED] * 6), encoder, base)

    assert found.warnings == ("nothing to train, left out: 7 rows (lines 2, 4, 5, 6, 7, …)",)
    assert found.notes == ("in the file more than once: 7 rows (lines 3, 4, 5, 6, 7, …)",)


def test_pairs_with_equal_answers_are_found_and_left_out(base: Base, encoder: Encoder, tmp_path: Path) -> None:
    pair = {"prompt": "One?", "chosen": "Two.", "rejected": "No."}
    path = write(tmp_path / "rows.jsonl", pair, {**pair, "rejected": "Two."})

    found = found_in(path, encoder, base, objective="dpo")

    assert found.warnings == ("the same chosen and rejected answer, which teaches nothing, left out: 1 row (line 2)",)
    assert len(load_dataset(path, encoder, objective="dpo").pairs) == 1


def test_audit_of_pairs_counts_both_answers(base: Base, encoder: Encoder, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"prompt": "One?", "chosen": "Two.", "rejected": "No."})
    (pair,) = load_dataset(path, encoder, objective="dpo").pairs

    found = found_in(path, encoder, base, objective="dpo")

    assert found.rows == 1
    assert found.tokens == len(pair.chosen.tokens) + len(pair.rejected.tokens)
    assert found.trained_tokens == pair.chosen.n_trained + pair.rejected.n_trained
    assert found.first_example.count("▌") == 2


def test_tokenizer_without_a_stop_token_is_warned_of(base: Base, tmp_path: Path) -> None:
    endless = Encoder(base.tokenizer, stop_ids=frozenset(), max_tokens=100)
    dataset = load_dataset(write(tmp_path / "rows.jsonl", GOOD), endless)

    found = audit(dataset, None, base.tokenizer, stop_ids=frozenset())

    assert not found.stop_token_trained
    assert found.warnings == ("the tokenizer names no token that ends a turn: the model cannot learn to stop",)


def test_little_to_train_is_noted(base: Base) -> None:
    dataset = Dataset((Example((2, *[9] * 300, 5), (*[False] * 301, True)),), "")

    found = audit(dataset, None, base.tokenizer, stop_ids=base.stop_ids)

    assert found.notes == ("only 1 of 302 tokens are trained: most of the time goes into prompts",)


def test_long_first_example_shows_its_beginning_and_its_answer(base: Base, tmp_path: Path) -> None:
    encoder = Encoder(base.tokenizer, stop_ids=base.stop_ids, max_tokens=10_000)
    path = write(tmp_path / "rows.jsonl", {"prompt": "word " * (MAX_SHOWN // 4), "completion": "Two."})

    shown = show_example(load_dataset(path, encoder).examples[0], base.tokenizer)

    assert len(shown) == MAX_SHOWN
    assert shown.startswith("·<bos>")
    assert shown.endswith("▌Two.<end_of_turn>·\n")


def test_warnings_are_taken_only_by_who_accepts_them(base: Base, encoder: Encoder, tmp_path: Path) -> None:
    found = found_in(write(tmp_path / "rows.jsonl", GOOD, MASKED), encoder, base)

    with pytest.raises(
        WarningsFound, match=r"left out: 1 row \(line 2\)\. .*accept_warnings: true .*--accept-warnings"
    ):
        check_warnings(found, accepted=False)
    check_warnings(found, accepted=True)


@pytest.fixture
def desk(slots: Slots, places: Places) -> Desk:
    return Desk(slots, places, device=torch.device("cpu"), report=lambda report: None)


def test_order_over_doubtful_data_is_refused_with_its_audit_and_leaves_nothing(
    desk: Desk, places: Places, new_request: NewRequest, tmp_path: Path
) -> None:
    dataset = Artifact.from_file(write(tmp_path / "rows.jsonl", GOOD, MASKED)).model_dump()
    request = new_request(dataset=dataset)

    refused = desk.prepare(request, None)

    assert isinstance(refused, Refused)
    assert refused.code == "warnings"
    assert refused.audit is not None
    assert refused.audit.warnings[0] in refused.detail
    assert find_record(places.runs, request.task_id) is None
    assert desk.is_idle


def test_refused_order_is_taken_once_it_accepts_the_warnings(
    desk: Desk, new_request: NewRequest, tmp_path: Path
) -> None:
    dataset = Artifact.from_file(write(tmp_path / "rows.jsonl", GOOD, MASKED)).model_dump()
    refused = desk.prepare(new_request(dataset=dataset), None)

    prepared = desk.prepare(new_request(dataset=dataset, accept_warnings=True), None)

    assert isinstance(refused, Refused)
    assert isinstance(prepared, Prepared)
    assert prepared.audit == refused.audit


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "expected at least one row, got an empty file"),
        (json.dumps(MASKED).encode(), "expected at least one token to train, got none: every row is masked"),
        (b"\xff\n", "rows.jsonl:1: expected UTF-8, got byte 0xff"),
        (b"\n \n\n", "expected at least one row, got"),
        (b"\0" * 4096, "rows.jsonl:1: "),
        (b'{"text": "a\0b"}\n', "rows.jsonl:1: "),
        ('{"text": "ä"}\n'.encode("utf-16"), "rows.jsonl:1: expected UTF-8, got byte 0xff"),
        (b'{"text": "' + b"x" * MAX_LINE_BYTES + b'"}', "rows.jsonl:1: expected at most 4194304 bytes in a line"),
    ],
    ids=["empty", "masked", "bytes", "blank lines", "zeros", "a zero", "UTF-16", "a long line"],
)
def test_data_that_cannot_work_is_refused_as_bad(
    content: bytes, said: str, desk: Desk, new_request: NewRequest, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)

    refused = desk.prepare(new_request(dataset=Artifact.from_file(path).model_dump()), None)

    assert isinstance(refused, Refused)
    assert (refused.code, said in refused.detail) == ("bad-data", True)


@pytest.mark.slow
def test_line_of_a_gibibyte_is_refused_without_being_held_in_memory(
    desk: Desk, new_request: NewRequest, places: Places, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES)  # sparse, so that it takes no room
    request = new_request(dataset=Artifact.from_file(path).model_dump())

    tracemalloc.start()
    try:
        refused = desk.prepare(request, None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert isinstance(refused, Refused)
    assert (refused.code, "split the row" in refused.detail) == ("bad-data", True)
    assert peak < MAX_FILE_BYTES / 20
    assert find_record(places.runs, request.task_id) is None


@pytest.mark.parametrize("field", ["dataset", "evaluation"])
def test_link_that_leads_out_of_the_roots_is_refused(
    field: str, desk: Desk, new_request: NewRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = write(tmp_path_factory.mktemp("outside") / "rows.jsonl", GOOD, OTHER)
    (tmp_path / "rows.jsonl").symlink_to(outside)
    linked = {**Artifact.from_file(outside).model_dump(), "uri": (tmp_path / "rows.jsonl").as_uri()}

    refused = desk.prepare(new_request(**{field: linked}), None)

    assert isinstance(refused, Refused)
    assert (refused.code, "expected a file under one of" in refused.detail) == ("bad-data", True)


def test_order_over_its_own_share_has_no_row_in_common_with_it(desk: Desk, new_request: NewRequest) -> None:
    prepared = desk.prepare(new_request(evaluation_share=0.2), None)

    assert isinstance(prepared, Prepared)
    assert prepared.audit.rows_shared_with_evaluation == 0
    assert prepared.audit.rows < 24


def test_order_evaluated_on_its_own_rows_is_refused_until_it_accepts_that(
    desk: Desk, new_request: NewRequest, data_file: Path
) -> None:
    evaluation = Artifact.from_file(data_file).model_dump()

    refused = desk.prepare(new_request(evaluation=evaluation), None)

    assert isinstance(refused, Refused)
    assert "in the evaluation set too, so that its figures will be too good: 24 rows" in refused.detail


def test_limit_of_the_order_cuts_rows_and_is_warned_of(desk: Desk, new_request: NewRequest) -> None:
    refused = desk.prepare(new_request(max_tokens=36), None)

    assert isinstance(refused, Refused)
    assert refused.audit is not None
    assert refused.audit.rows_truncated
    assert refused.audit.tokens <= 36 * refused.audit.rows
