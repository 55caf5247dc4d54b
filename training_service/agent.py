"""The training service on the bus: plays ``trainer`` (of new runs and of known ones) and ``generator``.

Long work commits as it goes. A handler that is begun again, here or in another instance, attaches to its run,
which goes on from its last checkpoint, and tells the client nothing twice. Knows the bus and the worker;
nothing here loads a model. The child logs what becomes of each run.

Settings: ``models``, the folder of base models (``.palaver/models``); ``state``, the folder of runs,
artifacts and adapters (``.palaver/training``); ``roots``, folders that datasets and base models may lie
under (the project's own); ``hub``, whether a base may be fetched by its name on the hub (false); ``hosts`` and
``rendezvous``, over how many hosts a run of several processes goes, and this one's ``address:port`` for it (1, none).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

from pydantic import BaseModel

from bus import Agent, Conversation, Ended, load_protocol
from training_service.errors import RequestInvalid, TrainingError
from training_service.event import (
    Canceled,
    Failed,
    GenerateRequest,
    Prepared,
    Progress,
    Trained,
    refusal,
)
from training_service.follow import carry_out, is_news
from training_service.message import artifact_message, quote_message, refused_message, run_message, speech_message
from training_service.oversight import follow_messages, history_message, list_message, steer_message
from training_service.request import Artifact, parse_request
from training_service.shelf import Shelf
from training_service.shelf_message import adapter_message, adapters_message, refused_change
from training_service.worker import Worker

TEXT_REFUSALS = {
    code: code for code in ("bad-request", "no-such-base", "no-such-adapter", "no-memory", "busy", "internal")
}
"""Our errors' codes that message ``Refused`` of generation has a word for; a test compares."""

Body: TypeAlias = Any  # classes that are made from a spec at run time: no type checker knows their fields

training = load_protocol("training")
generation = load_protocol("generation")
runs = load_protocol("runs")
adapters = load_protocol("adapters")
agent = Agent(
    plays=[training.role("trainer"), generation.role("generator"), runs.role("trainer"), adapters.role("trainer")]
)


class Service:
    """The one worker of this process, from the agent's start to its end."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._shelf: Shelf | None = None

    @property
    def worker(self) -> Worker:
        """The worker; there is one while the agent serves."""
        assert self._worker is not None, "no handler runs before on_start"
        return self._worker

    @property
    def shelf(self) -> Shelf:
        """What the worker has registered; there is one while the agent serves."""
        assert self._shelf is not None, "no handler runs before on_start"
        return self._shelf

    async def start(self, settings: dict[str, Any]) -> None:
        """Start a worker as *settings* say; its child warms up while the agent registers."""
        self._worker = new_worker(settings)
        self._shelf = Shelf(self._worker, **places_of(settings))
        await self._worker.start()

    async def stop(self) -> None:
        """End the worker and its child; runs go on from their last checkpoint another time."""
        if self._worker is not None:
            await self._worker.stop()


service = Service()


@agent.on_start
async def start() -> None:
    """Start the worker."""
    await service.start(agent.settings)


@agent.on_stop
async def stop() -> None:
    """Stop the worker."""
    await service.stop()


def new_worker(settings: dict[str, Any]) -> Worker:
    """Return the worker that the agent's settings describe."""
    hosts, rendezvous = int(settings.get("hosts", 1)), settings.get("rendezvous")
    return Worker(**places_of(settings), n_hosts=hosts, rendezvous=rendezvous)


def places_of(settings: dict[str, Any]) -> dict[str, Any]:
    """Return where the agent's settings say that things are."""
    return {
        "models_dir": Path(settings.get("models", ".palaver/models")).resolve(),
        "state_dir": Path(settings.get("state", ".palaver/training")).resolve(),
        "roots": tuple(Path(root).resolve() for root in settings.get("roots", ["."])),
        "allow_hub": bool(settings.get("hub", False)),
    }


# -- trainer ------------------------------------------------------------------------------------------


@agent.on(training.TrainRequest)
async def quote(order: Body, conversation: Conversation) -> BaseModel:
    """Audit the data, measure one step, and answer with a quote or a refusal."""
    task_id: UUID = order.task_id
    conversation.state["task_id"] = str(task_id)
    try:
        request = parse_request(order.model_dump(by_alias=True))
        answer = await service.worker.prepare(request, conversation_id=conversation.id.hex())
    except TrainingError as error:
        return refused_message(training, task_id, refusal(str(task_id), error))
    if not isinstance(answer, Prepared):
        return refused_message(training, task_id, answer)
    return quote_message(training, task_id, answer)


@agent.on(training.Accept, training.Resume)
async def run(order: Body, conversation: Conversation) -> None:
    """Carry the run out, or go on with it, and tell the client how it goes."""
    task_id: UUID = order.task_id
    told = conversation.state.setdefault("told", {})
    if training.Queued in conversation.allowed():
        position = await service.worker.enqueue(str(task_id))
        await conversation.send(training.Queued(task_id=task_id, position=position))
        await conversation.commit()
    if conversation.state.pop("paused", False):
        with suppress(RequestInvalid):  # it is over: what follows says so
            await service.worker.resume(str(task_id))
    async for event in carry_out(service.worker, str(task_id)):
        if isinstance(event, Trained | Failed | Canceled):
            conversation.state["over"] = True
            if isinstance(event, Trained | Failed) and told.get("stand") is None:
                # it was over before anybody could be told of its start
                await conversation.send(training.Started(task_id=task_id, run_id=f"run-{task_id}"))
        message = run_message(training, task_id, event)
        if message is None or type(message) not in conversation.allowed() or not is_news(told, event):
            continue  # it was told by an earlier attempt, or the protocol has no word for it
        await conversation.send(message)
        if not isinstance(event, Progress):
            await conversation.commit()


@agent.on(training.Decline)
async def forget(order: Body, _: Conversation) -> None:
    """Forget what was prepared."""
    await _cancel(str(order.task_id))


@agent.on(training.Pause)
async def pause(order: Body, conversation: Conversation) -> BaseModel:
    """Stop the run at the end of its step and say where it will go on."""
    conversation.state["paused"] = True
    conversation.state.setdefault("told", {})["stand"] = None
    paused = await service.worker.pause(str(order.task_id))
    return training.Paused(task_id=order.task_id, checkpoint=artifact_message(training, paused.checkpoint))


@agent.on(training.Cancel)
async def cancel(order: Body, conversation: Conversation) -> BaseModel | None:
    """Stop the run for good."""
    conversation.state["over"] = True
    last = await _cancel(str(order.task_id))
    return run_message(training, order.task_id, Canceled(str(order.task_id), last))


@agent.on(Ended)
async def clean_up(_: Ended, conversation: Conversation) -> None:
    """Stop a run whose conversation is over before the run was, e.g. because its parent was canceled."""
    task_id = conversation.state.get("task_id")
    if isinstance(task_id, str) and not conversation.state.get("over"):
        await _cancel(task_id)


async def _cancel(task_id: str) -> Artifact | None:
    """Cancel the run if there is one to cancel, and return its last checkpoint."""
    try:
        canceled = await service.worker.cancel(task_id)
    except TrainingError:  # refused at the quote, or trained while the order was on its way
        return None
    return canceled.last_checkpoint


# -- runs, as their owners see them -------------------------------------------------------------------


@agent.on(runs.List)
async def list_runs(order: Body, _: Conversation) -> BaseModel:
    """Say which runs there are."""
    return list_message(runs, service.worker, order)


@agent.on(runs.Show)
async def show_run(order: Body, _: Conversation) -> BaseModel:
    """Say how one run went."""
    return history_message(runs, service.worker, order)


@agent.on(runs.PauseRun, runs.ResumeRun, runs.CancelRun)
async def steer_run(order: Body, _: Conversation) -> BaseModel:
    """Pause, resume or cancel a run beside the conversation that ordered it."""
    return await steer_message(runs, service.worker, order)


@agent.on(runs.Follow)
async def follow_run(order: Body, _: Conversation) -> AsyncIterator[BaseModel]:
    """Say how a run goes until it is over, or until nobody wants to know."""
    async for message in follow_messages(runs, service.worker, order):
        yield message


@agent.on(runs.Stop)
async def stop_following(_: Body, __: Conversation) -> None:
    """Nothing is left to do: the bus has ended the following handler with its turn."""


# -- generator ----------------------------------------------------------------------------------------


@agent.on(generation.Generate)
async def generate(order: Body, conversation: Conversation) -> AsyncIterator[BaseModel]:
    """Write the next turn of the chat, piece by piece."""
    request_id: UUID = order.request_id
    request = GenerateRequest(
        request_id=str(request_id),
        base=order.base,
        messages=tuple({"role": turn.role, "content": turn.content} for turn in order.messages),
        adapter=order.adapter,
        max_tokens=order.max_tokens,
        temperature=order.temperature,
        seed=order.seed,
        stop=tuple(order.stop),
        top_p=order.top_p,
        logprobs=order.logprobs,
    )
    try:
        async for speech in service.worker.generate(request):
            yield speech_message(generation, request_id, speech)
    except TrainingError as error:
        if generation.Refused not in conversation.allowed():
            raise  # in the middle of the answer: the bus delivers the request again
        yield generation.Refused(
            request_id=request_id, code=TEXT_REFUSALS.get(error.code, "internal"), detail=str(error)
        )


@agent.on(generation.Cancel)
async def stop_writing(_: Body, __: Conversation) -> None:
    """Nothing is left to do: the bus has ended the writing handler with its turn."""


# -- adapters -----------------------------------------------------------------------------------------


@agent.on(adapters.List)
async def list_adapters(_: Body, __: Conversation) -> BaseModel:
    """List everything that is registered."""
    registry = service.shelf.registry
    return adapters_message(adapters, registry.all(), registry.aliases())


@agent.on(adapters.SetAlias, adapters.DropAlias, adapters.Delete, adapters.Merge, adapters.Export)
async def change(order: Body, _: Conversation) -> BaseModel:
    """Carry out one change, or say why not."""
    shelf = service.shelf
    adapter, folder = None, None
    try:
        match type(order).__name__:
            case "SetAlias":
                adapter = shelf.set_alias(order.alias, order.adapter)
                detail = f"{order.alias} means {adapter.label}"
            case "DropAlias":
                shelf.registry.drop_alias(order.alias)
                detail = f"{order.alias} means nothing"
            case "Delete":
                adapter = await shelf.delete(order.adapter)
                detail = f"{adapter.label} is deleted"
            case "Merge":
                adapter = await shelf.merge(order.adapter, order.name)
                detail = f"{adapter.label} holds {adapter.provenance.merged_from} and its base"
            case _:
                adapter, path = await shelf.export(order.adapter, order.folder)
                folder, detail = str(path), f"{adapter.label} is in {path}"
    except TrainingError as error:
        return refused_change(adapters, error)
    shown = None if adapter is None else adapter_message(adapters, adapter, shelf.registry.aliases())
    done: BaseModel = adapters.Done(adapter=shown, folder=folder, detail=detail)
    return done
