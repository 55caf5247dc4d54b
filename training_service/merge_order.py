"""The order to fold an adapter into its base, and its answer, as they cross to the merging process. Loads no torch."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from training_service.adapters import Adapter
from training_service.errors import RequestInvalid
from training_service.event import Json


@dataclass(frozen=True, slots=True)
class MergeOrder:
    """What to merge, under which name, and where things are."""

    adapter: str
    name: str
    models: Path
    state: Path
    roots: tuple[Path, ...]
    allow_hub: bool = False


_ORDER = TypeAdapter(MergeOrder)
_ADAPTER = TypeAdapter(Adapter)


def order_to_json(order: MergeOrder) -> str:
    """Return *order* as the merging process reads it."""
    return json.dumps(asdict(order), default=str)


def order_from_json(text: str) -> MergeOrder:
    """Return what ``order_to_json`` was given.

    Raises:
        RequestInvalid: *text* is no order.
    """
    try:
        return _ORDER.validate_json(text)
    except ValidationError as error:
        raise RequestInvalid(f"expected an order to merge: {error}") from error


def adapter_to_json(adapter: Adapter) -> Json:
    """Return *adapter* as plain data."""
    plain: Json = _ADAPTER.dump_python(adapter, mode="json")
    return plain


def adapter_from_json(data: object) -> Adapter:
    """Return what ``adapter_to_json`` was given."""
    return _ADAPTER.validate_python(data)
