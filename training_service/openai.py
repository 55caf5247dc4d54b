"""The OpenAI face: ``python -m training_service.openai``. A client of the bus like any other.

Jobs are conversations of protocol ``training`` under a name that is kept in the state folder: a face that is
started again finds them, hears what it heard before, says what it said before, and goes on. Loads no torch.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import structlog
import uvicorn
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette

from bus import Client, ConversationEnded, NobodyPlays, OpenConversation, PalaverError, load_protocol
from training_service.openai_files import FileStore
from training_service.openai_jobs import (
    OVER,
    Event,
    Job,
    JobStore,
    Status,
    after,
    check_steerable,
    ended,
    event_of,
    new_job,
)
from training_service.openai_routes import new_app
from training_service.openai_shapes import ApiError, ChatRequest, JobRequest, Json, Said, not_found
from training_service.openai_text import Writing
from training_service.request import Artifact

log = structlog.get_logger()

training = load_protocol("training")
generation = load_protocol("generation")
adapters = load_protocol("adapters")

LOOPBACK = ("127.0.0.1", "::1", "localhost")
DEFAULT_TOKENS = 256
STEERING_LIMIT = 30.0
"""Seconds that a pause, resume or cancel may take before the job is shown as it stands."""

NOBODY = "no training service is up: start one, e.g. with `palaver up`"
REFUSALS = {"no-such-base": 404, "no-such-adapter": 404, "bad-request": 400, "busy": 429, "no-memory": 503}
"""Code of message ``Refused`` of generation → HTTP status; another one is the service's own fault."""


class Face:
    """The bus as the routes see it.

    Args:
        client: Of a name that is kept: the jobs' conversations belong to it.
        state: The folder of files and jobs; under a root of the training service.
        bases: Names of base models that may be asked for.
    """

    def __init__(self, client: Client, state: Path, bases: tuple[str, ...]) -> None:
        self.files = FileStore(state / "files")
        self.jobs = JobStore(state / "jobs")
        self._client = client
        self._bases = bases
        self._tasks: set[asyncio.Task[None]] = set()
        self._talks: dict[str, OpenConversation] = {}
        self._news: dict[str, asyncio.Event] = {}

    def begin(self) -> None:
        """Go on with every job that is not over."""
        for job in self.jobs.all():
            if job.status not in OVER:
                self._start(self._follow(job.job_id))

    async def end(self) -> None:
        """Leave every conversation as it is."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- models and texts ------------------------------------------------------------------------------

    async def models(self) -> list[Json]:
        """Return bases and adapters as OpenAI's clients read them; adapters under their versions and aliases."""
        found = [{"id": base, "object": "model", "created": 0, "owned_by": "base"} for base in self._bases]
        for one in await self._adapters():
            names = [f"{one.name}@{one.version}", *one.aliases]
            found += [{"id": name, "object": "model", "created": 0, "owned_by": one.base} for name in names]
        return found

    async def write(self, request: ChatRequest) -> Writing:
        """Begin to answer a chat.

        Raises:
            ApiError: It cannot be answered.
        """
        base, adapter = await self._model(request.model)
        order = generation.Generate(
            request_id=uuid4(),
            base=base,
            adapter=adapter,
            messages=[generation.ChatTurn(**message.turn()) for message in request.messages],
            max_tokens=request.max_completion_tokens or request.max_tokens or DEFAULT_TOKENS,
            temperature=1.0 if request.temperature is None else float(request.temperature),
            seed=secrets.randbits(31) if request.seed is None else request.seed,
            stop=request.stops(),
            top_p=1.0 if request.top_p is None else float(request.top_p),
            logprobs=request.n_top(),
        )
        writing = Writing()
        self._start(self._write(order, writing))
        await writing.begin()
        return writing

    async def _model(self, name: str) -> tuple[str | None, str | None]:
        if name in self._bases:
            return name, None
        plain, _, version = name.partition("@")
        listed = await self._adapters()
        named = [one for one in listed if one.name == plain and version in ("", str(one.version))]
        meant = named or [one for one in listed if name in one.aliases]
        if not meant:
            raise not_found("model", name)
        newest = max(meant, key=lambda one: int(one.version))
        return None, f"{newest.name}@{newest.version}"

    async def _adapters(self) -> list[Any]:
        async with self._client.open(adapters, role="client", notices=True) as conversation:
            await conversation.send(adapters.List())
            answer: Any = await _receive(conversation)
        return list(answer.adapters)

    async def _write(self, order: Any, writing: Writing) -> None:
        try:
            async with self._client.open(generation, role="client", notices=True) as conversation:
                await conversation.send(order)
                await self._read_text(conversation, order.request_id, writing)
        except ApiError as error:
            writing.put(error)
        except (PalaverError, ValidationError) as error:
            writing.put(ApiError(503, str(error)))

    async def _read_text(self, conversation: OpenConversation, request_id: UUID, writing: Writing) -> None:
        stopped = asyncio.create_task(writing.stopped.wait())
        try:
            while True:
                coming = asyncio.create_task(_receive(conversation))
                await asyncio.wait({coming, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    coming.cancel()
                    if generation.Cancel in conversation.allowed():
                        await conversation.send(generation.Cancel(request_id=request_id))
                    return
                message: Any = coming.result()
                match type(message).__name__:
                    case "Token":
                        writing.put(_said(message.text, message))
                    case "Generated":
                        writing.reason, writing.n_tokens = str(message.finish_reason), message.n_tokens
                        writing.n_prompt = message.n_prompt_tokens
                        if message.logprobs:
                            writing.put(_said("", message))
                        writing.put(None)
                        return
                    case _:
                        raise ApiError(REFUSALS.get(message.code, 500), message.detail, code=message.code)
        finally:
            stopped.cancel()

    # -- jobs ------------------------------------------------------------------------------------------

    async def create(self, request: JobRequest) -> Job:
        """Order a run and return its job at once.

        Raises:
            ApiError: A file is not there, or a field is wrong.
        """
        job = new_job(request, now=self.jobs.clock())
        self._order(job)  # before anything is kept
        self.jobs.keep(job)
        self.jobs.tell(job.job_id, Event("created", job.created_at, f"job created for model {job.model}"))
        self._start(self._follow(job.job_id))
        return job

    async def steer(self, job_id: str, name: str) -> Job:
        """Say Pause, Resume or Cancel to a job, and return it once that shows, or after ``STEERING_LIMIT``.

        Raises:
            ApiError: There is no such job, or it is not in a state for that.
        """
        job = self.jobs.find(job_id)
        check_steerable(job, name)
        talk, message_type = self._talks.get(job_id), getattr(training, name)
        if talk is not None and message_type in talk.allowed():
            before = self.jobs.keep(replace(job, said=(*job.said, name))).status
            await talk.send(message_type(task_id=UUID(job.task_id)))
        elif name == "Cancel" and job.status is Status.VALIDATING:
            before = self.jobs.keep(replace(job, wants_cancel=True)).status
        else:
            raise ApiError(400, f"expected a job that can be told to {name.lower()}, got one that is {job.status}")
        with suppress(TimeoutError):
            async with asyncio.timeout(STEERING_LIMIT):
                while self.jobs.find(job_id).status is before:
                    await self._news.setdefault(job_id, asyncio.Event()).wait()
        return self.jobs.find(job_id)

    def _order(self, job: Job) -> BaseModel:
        data = {"dataset": job.training_file, "evaluation": job.validation_file}
        found = {name: Artifact.from_file(self.files.path(one)) for name, one in data.items() if one is not None}
        fields = {
            **job.order,
            "task_id": UUID(job.task_id),
            "base": job.model,
            **{name: training.Artifact(**one.model_dump()) for name, one in found.items()},
        }
        try:
            order: BaseModel = training.TrainRequest(**fields)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in fault["loc"])
            raise ApiError(400, f"{place}: {fault['msg']}", code="invalid_value", param=place) from error
        return order

    async def _follow(self, job_id: str) -> None:
        job = self.jobs.find(job_id)
        try:
            async with self._client.open(training, role="client", request_id=job.task_id, notices=True) as conversation:
                self._talks[job_id] = conversation
                await self._hear(job_id, conversation)
                job = ended(
                    self.jobs.find(job_id), conversation.outcome or "", conversation.reason, now=self.jobs.clock()
                )
        except (PalaverError, ApiError) as error:
            log.warning("face.failed", task_id=job.task_id, detail=str(error))
            job = ended(self.jobs.find(job_id), "failed", str(error), now=self.jobs.clock())
        finally:
            self._talks.pop(job_id, None)
        self._keep(job)

    async def _hear(self, job_id: str, conversation: OpenConversation) -> None:
        """Follow a job's conversation to its end."""
        job, heard = self.jobs.find(job_id), Counter[str]()
        again = deque(job.said)
        await conversation.send(self._order(job))
        while True:
            try:
                message = await conversation.receive()
            except ConversationEnded:
                return
            if isinstance(message, NobodyPlays):
                self.jobs.tell(job_id, Event("nobody", int(self.jobs.clock()), NOBODY, level="warn"))
            if not isinstance(message, BaseModel):
                continue
            name, fields = type(message).__name__, message.model_dump(mode="json")
            heard[name] += 1
            self.jobs.tell(job_id, event_of(name, fields, count=heard[name], now=self.jobs.clock()))
            job = self._keep(after(self.jobs.find(job_id), name, fields, now=self.jobs.clock()))
            if name == "Quote":
                answer = training.Decline if job.wants_cancel else training.Accept
                await conversation.send(answer(task_id=UUID(job.task_id)))
            while again and getattr(training, again[0]) in conversation.allowed():
                await conversation.send(getattr(training, again.popleft())(task_id=UUID(job.task_id)))

    def _keep(self, job: Job) -> Job:
        self.jobs.keep(job)
        self._news.pop(job.job_id, asyncio.Event()).set()
        return job

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _said(text: str, message: Any) -> Said:
    return Said(text, [one.model_dump() for one in message.logprobs])


async def _receive(conversation: OpenConversation) -> BaseModel:
    """Return the next message.

    Raises:
        ApiError: Nobody is there to answer, or the conversation ended without one.
    """
    try:
        message = await conversation.receive()
        while not isinstance(message, BaseModel | NobodyPlays):
            message = await conversation.receive()
    except ConversationEnded as error:
        raise ApiError(503, "the training service was too slow or was lost; ask again") from error
    if isinstance(message, NobodyPlays):
        raise ApiError(503, NOBODY, code="no_service")
    return message


def kept_name(state: Path) -> str:
    """Return the face's name on the bus, made once for a state folder."""
    path = state / "name"
    if not path.is_file():
        state.mkdir(parents=True, exist_ok=True)
        path.write_text(f"openai-{secrets.token_hex(6)}")
    return path.read_text()


def read_keys(path: Path | None, host: str) -> list[str]:
    """Return the bearer keys in the file at *path*, one a line.

    Raises:
        SystemExit: There are none, and *host* is not a loopback address.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path is not None else []
    keys = [line.strip() for line in lines if line.strip()]
    if not keys and (path is not None or host not in LOOPBACK):
        sys.exit(f"palaver: expected --keys FILE with a key a line where --host is {host}, got none")
    return keys


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(description="The OpenAI API over the training service; `palaver serve` starts it.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--keys", type=Path)
    parser.add_argument("--state", type=Path, default=Path(".palaver/openai"))
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--bus")
    given = parser.parse_args()
    keys, state = read_keys(given.keys, given.host), given.state.resolve()

    @asynccontextmanager
    async def living(app: Starlette) -> AsyncIterator[None]:
        async with Client(given.bus, kept_name(state)) as client:
            face = app.state.backend = Face(client, state, tuple(given.model) or ("tiny-gemma3",))
            face.begin()
            log.info("face.started", address=f"http://{given.host}:{given.port}/v1")
            yield
            await face.end()

    config = uvicorn.Config(
        new_app(keys=keys, lifespan=living), host=given.host, port=given.port, log_level="warning", access_log=False
    )
    with config.bind_socket() as door, suppress(KeyboardInterrupt):
        door.listen()  # before it says that it has started: uvicorn itself would listen only afterwards
        uvicorn.Server(config).run(sockets=[door])


if __name__ == "__main__":
    main()
