"""The HTTP side of the OpenAI face: routes, limits, keys and errors. Knows the bus only as ``Backend``."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol
from uuid import uuid4

import structlog
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from training_service.openai_files import MOST_BYTES, FileStore
from training_service.openai_jobs import Job, JobStore, checkpoint_object
from training_service.openai_shapes import (
    ApiError,
    ChatRequest,
    JobRequest,
    Json,
    Said,
    chunk,
    completion,
    listing,
    logprobs_of,
    not_found,
    read_shape,
    usage_of,
)

log = structlog.get_logger()

MOST_JSON_BYTES = 1024 * 1024
MULTIPART_BYTES = 64 * 1024
"""What the form around an uploaded file may add to it."""

MOST_LISTED, LISTED = 100, 20
PIECE_BYTES = 1024 * 1024


class Text(Protocol):
    """An answer that is being written; the three numbers are known once its pieces have come to an end."""

    reason: str
    n_prompt: int
    n_tokens: int

    def pieces(self) -> AsyncIterator[Said]: ...

    def stop(self) -> None: ...


class Backend(Protocol):
    """What the routes need of the bus."""

    files: FileStore
    jobs: JobStore

    async def models(self) -> list[Json]: ...

    async def write(self, request: ChatRequest) -> Text: ...

    async def create(self, request: JobRequest) -> Job: ...

    async def steer(self, job_id: str, name: str) -> Job: ...


def new_app(
    *,
    keys: Sequence[str] = (),
    lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]] | None = None,
) -> Starlette:
    """Return the application; with *keys* every request must bear one. *lifespan* sets ``state.backend``."""
    jobs = "/v1/fine_tuning/jobs"
    routes = [
        Route("/v1/models", list_models),
        Route("/v1/models/{model:path}", show_model),
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/files", upload, methods=["POST"]),
        Route("/v1/files", list_files),
        Route("/v1/files/{file_id}", show_file),
        Route("/v1/files/{file_id}", delete_file, methods=["DELETE"]),
        Route("/v1/files/{file_id}/content", download),
        Route(jobs, create_job, methods=["POST"]),
        Route(jobs, list_jobs),
        Route(jobs + "/{job_id}", show_job),
        Route(jobs + "/{job_id}/events", list_events),
        Route(jobs + "/{job_id}/checkpoints", list_checkpoints),
        *(
            Route(f"{jobs}/{{job_id}}/{word.lower()}", steering(word), methods=["POST"])
            for word in ("Pause", "Resume", "Cancel")
        ),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(_Keys, keys=keys)] if keys else [],
        exception_handlers={ApiError: _answer_error, HTTPException: _answer_http, Exception: _answer_unknown},
        lifespan=lifespan,
    )


class _Keys:
    """Lets nobody in who does not bear a key; compares in constant time."""

    def __init__(self, app: ASGIApp, *, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401, or pass the request on."""
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"").removeprefix(b"Bearer ")
            # Every key is compared, so that the time tells nothing of which one is near.
            if sum(hmac.compare_digest(given, key) for key in self._keys) == 0:
                error = ApiError(
                    401, "expected a bearer key of this service, got another or none", code="invalid_api_key"
                )
                await JSONResponse(error.body(), 401)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def backend_of(request: Request) -> Backend:
    """Return what the application's lifespan has put into its state."""
    backend: Backend = request.app.state.backend
    return backend


# -- models and chats ------------------------------------------------------------------------------


async def list_models(request: Request) -> Response:
    """List bases and adapters."""
    return JSONResponse({"object": "list", "data": await backend_of(request).models()})


async def show_model(request: Request) -> Response:
    """Show one of them."""
    name = request.path_params["model"]
    for model in await backend_of(request).models():
        if model["id"] == name:
            return JSONResponse(model)
    raise not_found("model", name)


async def chat(request: Request) -> Response:
    """Answer a chat, at once or piece by piece."""
    wanted = read_shape(ChatRequest, await _json(request))
    text = await backend_of(request).write(wanted)
    named = {"completion_id": f"chatcmpl-{uuid4().hex}", "created": int(time.time()), "model": wanted.model}
    if wanted.stream:
        return StreamingResponse(_stream(text, wanted, named), media_type="text/event-stream")
    pieces = [piece async for piece in text.pieces()]
    answer = completion(
        **named,  # type: ignore[arg-type]  # its own fields
        text="".join(piece.text for piece in pieces),
        reason=text.reason,
        usage=usage_of(text.n_prompt, text.n_tokens),
        logprobs=logprobs_of(pieces) if wanted.logprobs else None,
    )
    return JSONResponse(answer)


# -- files -----------------------------------------------------------------------------------------


async def upload(request: Request) -> Response:
    """Keep the file of a form."""
    limited = Request(request.scope, _limited(request.receive, MOST_BYTES + MULTIPART_BYTES))
    async with limited.form(max_files=1, max_fields=10) as form:
        upload, purpose = form.get("file"), form.get("purpose")
        if not isinstance(upload, UploadFile):
            raise ApiError(400, "expected a form with a file in field 'file'", param="file")
        if purpose != "fine-tune":
            raise ApiError(400, f"expected purpose 'fine-tune', got {purpose!r}", param="purpose")
        stored = await backend_of(request).files.add(upload.filename or "", _pieces(upload))
    return JSONResponse(stored.as_object())


async def list_files(request: Request) -> Response:
    """List them, the newest first."""
    return _listed(request, [one.as_object() for one in backend_of(request).files.all()])


async def show_file(request: Request) -> Response:
    """Show one."""
    return JSONResponse(backend_of(request).files.find(request.path_params["file_id"]).as_object())


async def download(request: Request) -> Response:
    """Send one's content."""
    return FileResponse(backend_of(request).files.path(request.path_params["file_id"]), media_type="application/jsonl")


async def delete_file(request: Request) -> Response:
    """Remove one."""
    file_id = request.path_params["file_id"]
    backend_of(request).files.delete(file_id)
    return JSONResponse({"id": file_id, "object": "file", "deleted": True})


# -- jobs ------------------------------------------------------------------------------------------


async def create_job(request: Request) -> Response:
    """Order a run."""
    job = await backend_of(request).create(read_shape(JobRequest, await _json(request)))
    return JSONResponse(job.as_object())


async def list_jobs(request: Request) -> Response:
    """List them, the newest first."""
    return _listed(request, [job.as_object() for job in backend_of(request).jobs.all()])


async def show_job(request: Request) -> Response:
    """Show one."""
    return JSONResponse(backend_of(request).jobs.find(request.path_params["job_id"]).as_object())


async def list_events(request: Request) -> Response:
    """List what has happened to one, the newest first, as OpenAI does."""
    events = backend_of(request).jobs.events(request.path_params["job_id"])
    return _listed(request, [one.as_object() for one in reversed(events)])


async def list_checkpoints(request: Request) -> Response:
    """List one's checkpoints, the newest first."""
    job = backend_of(request).jobs.find(request.path_params["job_id"])
    written = [one for one in backend_of(request).jobs.events(job.job_id) if "checkpoint" in one.data]
    return _listed(request, [checkpoint_object(job, one) for one in reversed(written)])


def steering(word: str) -> Callable[[Request], object]:
    """Return the route by which a job is told to pause, resume or cancel."""

    async def steer(request: Request) -> Response:
        return JSONResponse((await backend_of(request).steer(request.path_params["job_id"], word)).as_object())

    return steer


async def _stream(text: Text, wanted: ChatRequest, named: Mapping[str, object]) -> AsyncIterator[str]:
    def event(**fields: object) -> str:
        return f"data: {json.dumps(chunk(**named, **fields), ensure_ascii=False)}\n\n"  # type: ignore[arg-type]  # its own fields

    try:
        yield event(delta={"role": "assistant", "content": ""})
        try:
            async for piece in text.pieces():
                logprobs = logprobs_of([piece]) if wanted.logprobs else None
                yield event(delta={"content": piece.text}, logprobs=logprobs)
        except ApiError as error:  # in the middle: the status is sent already
            yield f"data: {json.dumps(error.body())}\n\n"
            return
        yield event(delta={}, reason=text.reason)
        if wanted.stream_options is not None and wanted.stream_options.include_usage:
            yield event(delta=None, usage=usage_of(text.n_prompt, text.n_tokens))
        yield "data: [DONE]\n\n"
    finally:
        text.stop()


async def _json(request: Request) -> object:
    parts, n_bytes = [], 0
    async for piece in request.stream():
        n_bytes += len(piece)
        if n_bytes > MOST_JSON_BYTES:
            raise ApiError(413, f"expected at most {MOST_JSON_BYTES} bytes of JSON, got more")
        parts.append(piece)
    try:
        return json.loads(b"".join(parts))
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"expected a JSON object, got: {str(error)[:200]}", code="invalid_json") from error


def _limited(receive: Receive, most: int) -> Receive:
    """Return *receive* that ends with 413 where more than *most* bytes come, whatever was announced."""
    n_bytes = 0

    async def counted() -> Message:
        nonlocal n_bytes
        message = await receive()
        n_bytes += len(message.get("body", b""))
        if n_bytes > most:
            raise ApiError(413, f"expected at most {MOST_BYTES} bytes in a file, got more: split it")
        return message

    return counted


async def _pieces(upload: UploadFile) -> AsyncIterator[bytes]:
    while piece := await upload.read(PIECE_BYTES):
        yield piece


def _listed(request: Request, items: list[Json]) -> Response:
    text = request.query_params.get("limit", str(LISTED))
    if not text.isdigit() or not 1 <= int(text) <= MOST_LISTED:
        raise ApiError(400, f"expected a limit from 1 to {MOST_LISTED}, got {text[:20]!r}", param="limit")
    return JSONResponse(listing(items, limit=int(text), after=request.query_params.get("after")))


async def _answer_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), error.status)


async def _answer_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(ApiError(error.status_code, str(error.detail)).body(), error.status_code)


async def _answer_unknown(_: Request, error: Exception) -> Response:
    log.error("face.failed", exc_info=error)
    return JSONResponse(ApiError(500, "the service failed; its log says why").body(), 500)
