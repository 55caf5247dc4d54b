"""What a person sees of an order that is refused for its data."""

import json
from uuid import UUID

import pytest

from bus.cli.train_view import TrainView
from bus.spec.compile import load_protocol

training = load_protocol("training")
TASK = UUID(int=1)
AUDIT = training.Audit(
    rows=4,
    tokens=100,
    trained_tokens=20,
    rows_masked=1,
    rows_truncated=0,
    rows_duplicated=2,
    rows_shared_with_evaluation=0,
    double_bos=False,
    pad_is_eos=False,
    stop_token_trained=True,
    first_example="·One?\n▌Two.[/]",
    notes=["in the file more than once: 2 rows (lines 2, 3)"],
    warnings=["nothing to train, left out: 1 row (line 4)"],
)


def shown(capsys: pytest.CaptureFixture[str], *, as_json: bool = False, **fields: object) -> str:
    with TrainView(training, as_json=as_json) as view:
        view.show(training.Refused(task_id=TASK, **fields))
    return capsys.readouterr().out


def test_refusal_shows_the_audit_before_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, code="warnings", detail="the data warns", audit=AUDIT)

    assert text.splitlines() == [
        "audit",
        "  4 rows, 100 tokens, of which 20 (20%) are trained",
        "  note: in the file more than once: 2 rows (lines 2, 3)",
        "  warning: nothing to train, left out: 1 row (line 4)",
        "  the first row, trained parts marked:",
        "    ·One?",
        "    ▌Two.[/]",
        "refused: warnings: the data warns",
    ]


def test_refusal_of_data_that_could_not_be_read_shows_the_reason_alone(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, code="bad-data", detail="x.jsonl:1: expected UTF-8")

    assert text == "refused: bad-data: x.jsonl:1: expected UTF-8\n"


def test_programs_get_the_whole_audit_of_a_refusal(capsys: pytest.CaptureFixture[str]) -> None:
    message = json.loads(shown(capsys, as_json=True, code="warnings", detail="the data warns", audit=AUDIT))

    assert message["fields"]["audit"]["warnings"] == AUDIT.warnings


def test_data_shown_cannot_speak_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    audit = AUDIT.model_copy(update={"first_example": "·\x1b[2Jgone"})

    text = shown(capsys, code="warnings", detail="the data warns", audit=audit)

    assert "    ·\ufffd[2Jgone" in text
