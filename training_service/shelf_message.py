"""What is on the shelf as messages of protocol adapters, which is only known as what is given; imports no bus."""

from collections.abc import Iterable
from typing import Any, TypeAlias

from pydantic import BaseModel

from training_service.adapters import Adapter, Alias
from training_service.errors import Lost, TrainingError
from training_service.message import artifact_message

Spec: TypeAlias = Any  # a compiled protocol: its classes are made from a spec at run time

REFUSALS = frozenset({"no-such-adapter", "no-such-base", "bad-request", "in-use", "disk-full", "busy", "internal"})
"""Codes of message ``Refused``; an error that is none of them is ``internal``. A test compares."""


def adapters_message(adapters: Spec, listed: Iterable[Adapter], aliases: Iterable[Alias]) -> BaseModel:
    """Return everything that there is."""
    known = tuple(aliases)
    message: BaseModel = adapters.Adapters(adapters=[adapter_message(adapters, one, known) for one in listed])
    return message


def adapter_message(adapters: Spec, adapter: Adapter, aliases: Iterable[Alias]) -> BaseModel:
    """Return one version as the protocol has it."""
    source = adapter.provenance
    message: BaseModel = adapters.Adapter(
        name=adapter.name,
        version=adapter.version,
        kind=adapter.kind,
        base=adapter.base,
        base_sha256=adapter.base_sha256,
        artifact=artifact_message(adapters, adapter.artifact),
        aliases=[one.alias for one in aliases if (one.name, one.version) == (adapter.name, adapter.version)],
        method=str(source.request.get("method", "")),
        metrics=source.metrics,
        task_id=source.task_id,
        conversation_id=source.conversation_id,
        dataset_sha256=source.dataset_sha256,
        seed=source.seed,
        versions=source.versions,
    )
    return message


def refused_change(adapters: Spec, error: TrainingError) -> BaseModel:
    """Return the refusal that *error* is; a process that died is one to ask again."""
    code = "busy" if isinstance(error, Lost) else error.code if error.code in REFUSALS else "internal"
    message: BaseModel = adapters.Refused(code=code, detail=str(error))
    return message
