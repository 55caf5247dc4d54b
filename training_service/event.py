"""What a run and a generation report, and what is asked of the child: values that cross the pipe as JSON.

Loads no model library; both ends of the pipe import it. ``RunEvent`` and ``Speech`` say what may come out of
``worker``; the last of each is one of ``RUN_ENDS`` or ``Generated``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TypeAlias

from pydantic import TypeAdapter, ValidationError

from training_service.errors import RequestInvalid, TrainingError
from training_service.request import Artifact

Json: TypeAlias = dict[str, object]

REFUSAL_CODES = frozenset({"bad-request", "no-such-base", "bad-data", "warnings", "no-memory", "busy"})
"""Codes of message ``Refused``; an error before the start that is none of them is ``busy``."""

FAILURE_CODES = frozenset({"out-of-memory", "nan-loss", "bad-data", "disk-full", "lost", "internal"})
"""Codes of message ``TrainFailed``; an error of a run that is none of them is ``internal``."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """How one optimizer step went; *loss* is the mean over the trained tokens (DPO: the pairs) of the whole step.

    *gradient_norm* is the one before clipping.
    """

    step: int
    loss: float
    learning_rate: float
    tokens_per_second: float | None = None
    gradient_norm: float | None = None


class Variant(StrEnum):
    """Which model answered the held-out rows."""

    BASE = "base"
    SYSTEM_PROMPT = "system-prompt"
    TUNED = "tuned"


@dataclass(frozen=True, slots=True)
class Score:
    """How one variant of the model does on the held-out rows: the mean *loss* of a trained token.

    *metrics* holds ``exact_match`` and ``rows`` where the rows ask for an answer.
    """

    variant: Variant
    loss: float
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Audit:
    """What the dataset holds, found before the first step; field for field the protocol's ``Audit``."""

    rows: int
    tokens: int
    trained_tokens: int
    rows_masked: int
    rows_truncated: int
    rows_duplicated: int
    rows_shared_with_evaluation: int
    double_bos: bool
    pad_is_eos: bool
    stop_token_trained: bool
    first_example: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Quote:
    """What a run will need, measured by rehearsing what it does.

    *disk_bytes* is what its checkpoints and its result take at most at a time.
    """

    peak_memory_bytes: int
    disk_bytes: int
    steps: int
    seconds: float
    device: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run took, beside what was quoted."""

    peak_memory_bytes: int
    seconds: float
    quoted_peak_memory_bytes: int
    quoted_seconds: float


@dataclass(frozen=True, slots=True)
class Prepared:
    """The order can be carried out: what its data holds and what it will need."""

    task_id: str
    audit: Audit
    quote: Quote


@dataclass(frozen=True, slots=True)
class Refused:
    """The order cannot be carried out; *code* is one of ``REFUSAL_CODES``. The *audit* where the data could be read."""

    task_id: str
    code: str
    detail: str
    audit: Audit | None = None


@dataclass(frozen=True, slots=True)
class Queued:
    """The run waits; *position* runs are before it."""

    task_id: str
    position: int


@dataclass(frozen=True, slots=True)
class Started:
    """The run is on its slot; ``resumed_from_step`` is None for one that begins."""

    task_id: str
    run_id: str
    of_steps: int
    resumed_from_step: int | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """One step is done. A slow reader gets only the newest."""

    task_id: str
    metrics: Metrics
    of_steps: int
    seconds_left: float | None = None
    resumed_from_step: int | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All that continues the run from here is on disk, as *artifact*."""

    task_id: str
    artifact: Artifact
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The held-out rows were answered by each variant, side by side; before the first step without the tuned one."""

    task_id: str
    step: int
    scores: tuple[Score, ...]

    def score(self, variant: Variant) -> Score | None:
        """Return the score of *variant*, or None where it was not evaluated."""
        return next((one for one in self.scores if one.variant == variant), None)


@dataclass(frozen=True, slots=True)
class Trained:
    """The result is written and registered: *adapter* is its ``name@version``."""

    task_id: str
    artifact: Artifact
    adapter: str | None
    metrics: Metrics
    used: Usage


@dataclass(frozen=True, slots=True)
class Failed:
    """The run ended early; *code* is one of ``FAILURE_CODES``. A retryable one resumes when run again."""

    task_id: str
    code: str
    detail: str
    last_checkpoint: Artifact | None
    retryable: bool


@dataclass(frozen=True, slots=True)
class Suspended:
    """The run left its slot and waits: its owner paused it beside the conversation, or one of higher priority came.

    ``Started`` follows when it goes on from *checkpoint*. *reason* is ``owner`` or ``priority``.
    """

    task_id: str
    reason: str
    checkpoint: Artifact


@dataclass(frozen=True, slots=True)
class Paused:
    """The run holds no memory until it is resumed; *checkpoint* is where it will go on."""

    task_id: str
    checkpoint: Artifact


@dataclass(frozen=True, slots=True)
class Canceled:
    """The run was stopped for good."""

    task_id: str
    last_checkpoint: Artifact | None


def refusal(task_id: str, error: TrainingError, audit: Audit | None = None) -> Refused:
    """Return the answer that *error* makes of an order; *audit* is what was found before."""
    code = "no-memory" if error.code == "out-of-memory" else error.code
    return Refused(task_id, code if code in REFUSAL_CODES else "busy", str(error), audit)


RunEvent: TypeAlias = (
    Queued | Started | Progress | Checkpoint | Evaluated | Suspended | Trained | Failed | Paused | Canceled
)
RUN_ENDS = (Trained, Failed, Paused, Canceled)
"""After one of these nothing more comes from ``Worker.run``."""


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One text to write.

    Attributes:
        request_id: Comes back in every report of this text.
        base: As in a training request; may be the folder of a full model that a run made. None is the base that the
            adapter was trained on.
        adapter: ``name`` or ``name@version`` of the registry, or None for the base alone.
        messages: The chat so far, ``{"role": …, "content": …}``. Where the last turn is the assistant's, it is
            gone on with instead of answered.
        temperature: 0 takes the likeliest token each time.
        top_p: From 0 to 1: only the likeliest tokens that together have this chance are drawn from.
        logprobs: How many alternatives are told with the log probability of each token; None tells none of it.
        stop: Texts that end the answer and are not part of it.
    """

    request_id: str
    base: str | None
    messages: tuple[dict[str, str], ...]
    adapter: str | None = None
    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    top_p: float = 1.0
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token as text and its natural log probability at one place of a text."""

    token: str
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of a text, as *Alternative* has it, and the likeliest at its place, the likeliest first."""

    token: str
    logprob: float
    top: tuple[Alternative, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """The next piece of the text and the tokens that begin in it; all joined are the text of ``Generated``."""

    request_id: str
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Generated:
    """The whole text; *finish_reason* is ``stop``, ``length`` or ``canceled``.

    *logprobs* holds the tokens that were in no piece: together with theirs they are all.
    """

    request_id: str
    text: str
    n_prompt_tokens: int
    n_tokens: int
    finish_reason: str
    adapter: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerateFailed:
    """The text could not be written; *code* is one of ``errors``."""

    request_id: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run as listings show it; *state* is one of ``record.RunState``, or ``queued``.

    *position* is how many runs leave the queue before it, *detail* why it failed or stands still.
    """

    task_id: str
    state: str
    method: str
    base: str
    adapter: str | None
    step: int
    of_steps: int
    loss: float | None
    priority: int = 5
    position: int | None = None
    seconds: float = 0.0
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Lineup:
    """Which runs hold a place, and which wait for one with how many before them; told when it changes."""

    placed: tuple[str, ...] = ()
    waiting: dict[str, int] = field(default_factory=dict)


Speech: TypeAlias = Piece | Generated
Report: TypeAlias = Prepared | Refused | RunEvent | Lineup | Piece | Generated | GenerateFailed
REPORTS = (
    Prepared, Refused, Queued, Started, Progress, Checkpoint, Evaluated, Suspended, Trained, Failed, Paused,
    Canceled, Lineup, Piece, Generated, GenerateFailed,
)  # fmt: skip
_BY_NAME: dict[str, TypeAdapter[Report]] = {one.__name__: TypeAdapter(one) for one in REPORTS}
_GENERATE = TypeAdapter(GenerateRequest)


def report_to_json(report: Report) -> Json:
    """Return *report* as plain data with its class name under ``kind``."""
    name = type(report).__name__
    body: Json = _BY_NAME[name].dump_python(report, mode="json")
    return {"kind": name, **body}


def report_from_json(data: Json) -> Report:
    """Return what ``report_to_json`` was given.

    Raises:
        RequestInvalid: *data* is no report of ours.
    """
    body = dict(data)
    kind = body.pop("kind", None)
    try:
        return _BY_NAME[str(kind)].validate_python(body)
    except (KeyError, ValidationError) as error:
        raise RequestInvalid(f"expected a report of the child, got {kind!r}: {error}") from error


def generate_to_json(request: GenerateRequest) -> Json:
    """Return *request* as plain data."""
    return asdict(request)


def generate_from_json(data: object) -> GenerateRequest:
    """Return what ``generate_to_json`` was given.

    Raises:
        RequestInvalid: *data* is no order for a text.
    """
    try:
        return _GENERATE.validate_python(data)
    except ValidationError as error:
        raise RequestInvalid(f"expected an order for a text: {error}") from error
