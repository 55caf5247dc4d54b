"""The typed order for a run, equal to message ``TrainRequest``; and the ``*.training.yaml`` file that people write.

Knows nothing of models: whether the base exists or the rows fit is found later (``model``, ``data``).
"""

from collections.abc import Mapping
from hashlib import file_digest
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from training_service.errors import DataError, RequestInvalid

MAX_NAME = 200
"""Characters of an adapter's name: what a person reads and a listing shows."""

JSONL = "application/jsonl"


def canonical_task_id(text: str) -> str:
    """Return *text* as a lower-case hyphenated UUID: safe as the name of a folder.

    Raises:
        ValueError: It is no UUID.
    """
    return str(UUID(text))


def check_adapter_name(name: str) -> str:
    """Return *name* if it may stand in the registry; it is metadata only and never becomes a path.

    Raises:
        ValueError: It is empty, longer than ``MAX_NAME``, or holds ``@`` or an unprintable character.
    """
    if not name.strip():
        raise ValueError("expected a name, got an empty one")
    if len(name) > MAX_NAME:
        raise ValueError(f"expected at most {MAX_NAME} characters, got {len(name)}")
    if "@" in name or not name.isprintable():
        raise ValueError(f"expected printable characters without '@' (it comes before a version), got {name!r}")
    return name


def _text(value: object) -> object:
    return str(value) if isinstance(value, UUID) else value


TaskId = Annotated[str, BeforeValidator(_text), AfterValidator(canonical_task_id)]
AdapterName = Annotated[str, AfterValidator(check_adapter_name)]


class _Order(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Artifact(_Order):
    """Where big data lies and what it must be: never the data itself."""

    uri: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)
    media_type: str

    @classmethod
    def from_file(cls, path: Path, media_type: str = JSONL) -> "Artifact":
        """Return the artifact that *path* is now; reads the whole file.

        Raises:
            DataError: There is no such file, or it is a folder, a pipe or a device.
        """
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: expected a regular file, got a folder, pipe or device; give a file of JSON lines")
        try:
            with path.open("rb") as file:
                digest = file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{path}: expected a readable file, got {error.strerror}; give an existing path") from error
        size = path.stat().st_size
        return cls(uri=path.resolve().as_uri(), sha256=digest, size=size, media_type=media_type)

    @property
    def path(self) -> Path:
        """Where the artifact lies on this machine.

        Raises:
            RequestInvalid: The uri is neither ``file://`` nor an absolute path.
        """
        parts = urlsplit(self.uri)
        path = Path(unquote(parts.path) if parts.scheme == "file" else self.uri)
        if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost") or not path.is_absolute():
            raise RequestInvalid(
                f"expected a file:// uri on this machine, got {self.uri!r}: put the data under a folder of the service"
            )
        return path


class Lora(_Order):
    """How an adapter is made; *init* is any that PEFT knows, of which those that change the base are refused."""

    rank: int = Field(default=16, ge=1, le=512)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, le=0.9)
    targets: tuple[str, ...] = Field(default=("all-linear",), min_length=1, strict=False)
    rslora: bool = False
    dora: bool = False
    init: Literal["default", "gaussian", "orthogonal", "pissa", "olora", "corda", "loftq", "eva"] = "default"


class Dpo(_Order):
    """Direct preference optimization (arXiv 2305.18290); *label_smoothing* is the share of labels taken as wrong."""

    beta: float = Field(default=0.1, ge=0, le=10)
    label_smoothing: float = Field(default=0.0, ge=0, le=0.5)


class EarlyStopping(_Order):
    """End the steps when the held-out loss has not fallen by *min_delta* in *patience* evaluations in a row."""

    patience: int = Field(default=3, ge=1)
    min_delta: float = Field(default=0.0, ge=0)


class TrainingRequest(_Order):
    """One order; field for field the message ``TrainRequest`` of ``specs/training.protocol.yaml``.

    What each field means stands there.
    """

    task_id: TaskId
    base: str = Field(min_length=1)
    method: Literal["full", "lora"]
    lora: Lora | None = None
    dataset: Artifact
    evaluation: Artifact | None = None
    evaluation_share: float = Field(default=0.0, ge=0, le=0.5)
    evaluate_every: int | None = Field(default=None, ge=1)
    early_stopping: EarlyStopping | None = None
    system_prompt: str | None = Field(default=None, max_length=20_000)
    objective: Literal["sft", "dpo"] = "sft"
    dpo: Dpo | None = None
    train_on: Literal["assistant", "all"] = "assistant"
    freeze: tuple[str, ...] = Field(default=(), max_length=64, strict=False)
    max_steps: int | None = Field(default=None, ge=1)
    epochs: float = Field(default=1.0, ge=0, le=100)
    batch_rows: int = Field(default=4, ge=1)
    micro_rows: int | None = Field(default=None, ge=1)
    packing: bool = False
    max_tokens: int | None = Field(default=None, ge=2)
    learning_rate: float = Field(default=2e-4, ge=0, le=1)
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    max_norm: float = Field(default=1.0, ge=0)
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    processes: int = Field(default=1, ge=1, le=64)
    sharding: Literal["ddp", "fsdp"] = "ddp"
    seed: int = 0
    checkpoint_every: int | None = Field(default=None, ge=1)
    adapter: AdapterName | None = None
    priority: int = Field(default=5, ge=0, le=9)
    owner_key: str | None = Field(default=None, min_length=16, max_length=200, repr=False)
    accept_warnings: bool = False
    tensorboard: bool = False

    @model_validator(mode="after")
    def _parts_belong_together(self) -> "TrainingRequest":
        if self.method != "lora" and self.lora is not None:
            raise ValueError(f"expected no 'lora' with method {self.method!r}; leave it out or write method: lora")
        if self.objective != "dpo" and self.dpo is not None:
            raise ValueError(
                f"expected no 'dpo' with objective {self.objective!r}; leave it out or write objective: dpo"
            )
        if self.method != "full" and self.processes > 1:
            raise ValueError(
                f"expected processes: 1 with method {self.method!r}, got {self.processes}; write method: full"
            )
        if self.evaluation is not None and self.evaluation_share:
            raise ValueError("expected either 'evaluation' or 'evaluation_share', got both; leave one out")
        if self.evaluation is None and not self.evaluation_share:
            for name in ("early_stopping", "evaluate_every"):
                if getattr(self, name) is not None:
                    raise ValueError(f"expected held-out rows with {name!r}; give 'evaluation' or 'evaluation_share'")
        if self.epochs == 0 and self.max_steps is None:
            raise ValueError("expected at least one step, got epochs 0 without max_steps")
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"expected a seed of 64 bits, got {self.seed}")
        return self


def parse_request(body: Mapping[str, object], *, where: str = "request") -> TrainingRequest:
    """Return the order that *body* is.

    Args:
        body: Plain data, as it comes from a message body or JSON; ids may be text or UUIDs.
        where: What the error names as the place.

    Raises:
        RequestInvalid: Something is missing, unknown or out of range; one line for each fault.
    """
    try:
        return TrainingRequest.model_validate(dict(body))
    except ValidationError as error:
        raise RequestInvalid(_faults(error, where)) from error


def load_training(
    data: Mapping[str, object], *, folder: Path, task_id: str, where: str = "training file"
) -> TrainingRequest:
    """Return the order that a ``*.training.yaml`` file stands for; reads and hashes its datasets.

    Args:
        data: The file as plain data. ``training`` is its name, and the adapter's where ``adapter`` is not given;
            ``dataset`` and ``evaluation`` are paths relative to *folder*; everything else as in the request.
        folder: Where the file lies.
        task_id: The id of the task, a UUID; the same id is the same run.
        where: What errors name as the place, e.g. the file's path.

    Raises:
        RequestInvalid: The file does not say what it must.
        DataError: A dataset cannot be read.
    """
    body = dict(data)
    name = body.pop("training", None)
    if not isinstance(name, str):
        raise RequestInvalid(f"{where}: training: expected the name of the training, got {name!r}")
    body.setdefault("adapter", name)
    base = body.get("base")
    if isinstance(base, str) and (folder / base / "config.json").is_file():
        body["base"] = str((folder / base).resolve())
    for field in ("dataset", "evaluation"):
        path = body.get(field)
        if path is None and field == "evaluation":
            continue
        if not isinstance(path, str):
            raise RequestInvalid(f"{where}: {field}: expected the path of a JSONL file, got {path!r}")
        body[field] = Artifact.from_file(folder / path)
    return parse_request({**body, "task_id": task_id}, where=where)


def _faults(error: ValidationError, where: str) -> str:
    lines = []
    for fault in error.errors(include_url=False):
        place = ".".join(str(part) for part in fault["loc"]) or "the whole"
        message = fault["msg"].removeprefix("Value error, ")
        is_secret = place == "owner_key"
        got = "" if is_secret or fault["type"] in ("missing", "value_error") else f", got {_short(fault['input'])}"
        lines.append(f"{where}: {place}: {message[:1].lower()}{message[1:]}{got}")
    return "\n".join(lines)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
