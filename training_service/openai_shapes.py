"""The shapes of the OpenAI API that the face speaks: what is read, what is answered, and its errors. Knows no bus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from training_service.request import check_adapter_name

Json: TypeAlias = dict[str, Any]
Shape = TypeVar("Shape", bound=BaseModel)

LEARNING_RATE = 2e-4
"""What ``learning_rate_multiplier: 1`` means: the default of message ``TrainRequest``."""

MOST_TOKENS, MOST_TOP = 100_000, 20
"""Of one answer, and alternatives of one token; the bounds of message ``Generate``."""

UNFINISHED = "\ufffd"
"""How a part of a character is told; what its bytes are is not."""


class ApiError(Exception):
    """Raised where a request is answered with an error; *status* is the HTTP status."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(status, message, code, param)
        self.status = status
        self.message = message
        self.code = code
        self.param = param

    def body(self) -> Json:
        """Return the error as OpenAI's clients read it."""
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status)
        kind = kind or ("server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def not_found(what: str, name: str) -> ApiError:
    """Return the error that there is no *what* called *name*."""
    code = "model_not_found" if what == "model" else "not_found"
    return ApiError(404, f"expected an existing {what}, got {_short(name)}", code=code, param=what)


def _text_of(content: object) -> object:
    """Return the text of a message's content, which may be given in parts."""
    if not isinstance(content, list):
        return content
    if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        raise ValueError("expected parts of type 'text', got others: this service reads text alone")
    return "".join(str(part.get("text", "")) for part in content)


class _Shape(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, hide_input_in_errors=True)


class ChatMessage(_Shape):
    """One turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_text_of)]

    def turn(self) -> dict[str, str]:
        """Return the turn as the bus has it; ``developer`` is OpenAI's newer word for ``system``."""
        return {"role": "system" if self.role == "developer" else self.role, "content": self.content}


class StreamOptions(_Shape):
    """What a stream brings besides the text."""

    include_usage: bool = False


class ChatRequest(_Shape):
    """``POST /v1/chat/completions``; a parameter that the service cannot honor is refused, not passed over."""

    model: str = Field(min_length=1, max_length=400)
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    top_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MOST_TOP)
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    logit_bias: dict[str, float] | None = Field(default=None, max_length=0)
    tools: list[object] | None = Field(default=None, max_length=0)
    response_format: dict[Literal["type"], Literal["text"]] | None = None

    @field_validator("top_logprobs")
    @classmethod
    def _goes_with_logprobs(cls, value: int | None, known: ValidationInfo) -> int | None:
        if value and not known.data.get("logprobs"):
            raise ValueError("expected logprobs: true beside it")
        return value

    def stops(self) -> list[str]:
        """Return the texts that end the answer."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    def n_top(self) -> int | None:
        """Return how many alternatives are wanted with the log probability of each token; None wants none of it."""
        return (self.top_logprobs or 0) if self.logprobs else None


Auto: TypeAlias = Literal["auto"]


class Hyperparameters(_Shape):
    """What OpenAI lets be chosen; ``auto`` is the service's default."""

    n_epochs: Annotated[int, Field(ge=1, le=100)] | Auto = "auto"
    batch_size: Annotated[int, Field(ge=1)] | Auto = "auto"
    learning_rate_multiplier: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Auto = "auto"
    beta: Annotated[float, Field(ge=0, le=10)] | Auto = "auto"

    def fields(self) -> Json:
        """Return the fields of ``TrainRequest`` that they stand for."""
        found: Json = {}
        if self.n_epochs != "auto":
            found["epochs"] = float(self.n_epochs)
        if self.batch_size != "auto":
            found["batch_rows"] = self.batch_size
        if self.learning_rate_multiplier != "auto":
            found["learning_rate"] = LEARNING_RATE * self.learning_rate_multiplier
        return found


class Supervised(_Shape):
    """Of method ``supervised`` or ``dpo``."""

    hyperparameters: Hyperparameters = Field(default_factory=Hyperparameters)


class Method(_Shape):
    """How the job learns."""

    type: Literal["supervised", "dpo"] = "supervised"
    supervised: Supervised | None = None
    dpo: Supervised | None = None


class JobRequest(_Shape):
    """``POST /v1/fine_tuning/jobs``; *palaver* holds any other field of message ``TrainRequest``."""

    model: str = Field(min_length=1, max_length=400)
    training_file: str
    validation_file: str | None = None
    hyperparameters: Hyperparameters | None = None
    method: Method | None = None
    suffix: Annotated[str, AfterValidator(check_adapter_name)] | None = Field(default=None, max_length=64)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    metadata: dict[str, str] | None = None
    palaver: dict[str, object] = Field(default_factory=dict)

    @property
    def chosen(self) -> Hyperparameters:
        """The hyperparameters, wherever they stand."""
        method = self.method or Method()
        part = method.dpo if method.type == "dpo" else method.supervised
        return (part.hyperparameters if part is not None else None) or self.hyperparameters or Hyperparameters()

    def order(self) -> Json:
        """Return the fields of ``TrainRequest`` but for the task, the base and the data."""
        fields: Json = {"method": "lora", **self.chosen.fields()}
        if self.method is not None and self.method.type == "dpo":
            beta = self.chosen.beta
            fields |= {"objective": "dpo"} | ({} if beta == "auto" else {"dpo": {"beta": beta}})
        if self.suffix is not None:
            fields["adapter"] = self.suffix
        if self.seed is not None:
            fields["seed"] = self.seed
        return fields | self.palaver


def read_shape(shape: type[Shape], data: object) -> Shape:
    """Return *data* as *shape*.

    Raises:
        ApiError: It is something else; 400, with the first field that is wrong.
    """
    try:
        return shape.model_validate(data)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        place = ".".join(str(part) for part in faults[0]["loc"])
        text = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}" for one in faults[:3])
        raise ApiError(400, text, code="invalid_value", param=place or None) from error


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of an answer; *logprobs* are ``TokenLogprob`` of the bus as plain data, where they were asked for."""

    text: str
    logprobs: list[Json] = field(default_factory=list)


def logprobs_of(pieces: Iterable[Said]) -> Json:
    """Return the log probabilities in *pieces* as OpenAI's clients read them."""
    found = [
        {**_token(one), "top_logprobs": [_token(other) for other in one["top"]]}
        for piece in pieces
        for one in piece.logprobs
    ]
    return {"content": found, "refusal": None}


def _token(told: Mapping[str, Any]) -> Json:
    text = str(told["token"])
    return {
        "token": text, "logprob": told["logprob"], "bytes": None if UNFINISHED in text else list(text.encode()),
    }  # fmt: skip


def completion(
    *, completion_id: str, created: int, model: str, text: str, reason: str, usage: Mapping[str, int],
    logprobs: Json | None = None,
) -> Json:  # fmt: skip
    """Return a whole answer."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": reason}
    return {
        "id": completion_id, "object": "chat.completion", "created": created, "model": model,
        "choices": [choice], "usage": dict(usage),
    }  # fmt: skip


def chunk(
    *, completion_id: str, created: int, model: str, delta: Json | None, reason: str | None = None,
    usage: Mapping[str, int] | None = None, logprobs: Json | None = None,
) -> Json:  # fmt: skip
    """Return one piece of an answer that is streamed; without *delta* it brings the usage alone."""
    choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
    return {
        "id": completion_id, "object": "chat.completion.chunk", "created": created, "model": model,
        "choices": [] if delta is None else [choice], **({} if usage is None else {"usage": dict(usage)}),
    }  # fmt: skip


def usage_of(n_prompt: int, n_tokens: int) -> dict[str, int]:
    """Return how many tokens were read and written."""
    return {"prompt_tokens": n_prompt, "completion_tokens": n_tokens, "total_tokens": n_prompt + n_tokens}


def listing(items: list[Json], *, limit: int, after: str | None) -> Json:
    """Return a page of *items*: at most *limit*, behind the one whose id is *after*."""
    ids = [one["id"] for one in items]
    start = ids.index(after) + 1 if after in ids else 0
    page = items[start : start + limit]
    first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
    more = start + limit < len(items)
    return {"object": "list", "data": page, "has_more": more, "first_id": first, "last_id": last}


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:79] + "…")
