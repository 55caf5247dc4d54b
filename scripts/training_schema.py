"""Write ``specs/training.schema.json``, by which editors complete ``*.training.yaml`` files, from ``TrainRequest``.

    python scripts/training_schema.py

What a field may be is said once, in ``specs/training.protocol.yaml``; a test keeps the file fresh.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from bus.spec.compile import load_protocol
from bus.spec.json_schema import field_schema
from bus.spec.syntax import Field, Spec

PATH = Path(__file__).parent.parent / "specs" / "training.schema.json"
GIVEN = "task_id"
"""What the command fills in."""

PATHS = ("dataset", "evaluation")
"""Fields that are paths in the file and artifacts in the message."""

Schema = dict[str, object]


def training_schema(spec: Spec) -> Schema:
    """Return the draft-07 schema of a training file, after protocol *spec*."""
    (request,) = (one for one in spec.messages if one.name == "TrainRequest")
    fields = [one for one in request.fields if one.name != GIVEN]
    properties: Schema = {
        "training": {
            "type": "string",
            "pattern": "^[a-z][a-z0-9_-]{0,62}$",
            "description": "Name of the training; the adapter's where 'adapter' does not say otherwise.",
        }
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": PATH.name,
        "title": "Training",
        "description": "An order for the training service: palaver train FILE. The fields are those of TrainRequest.",
        "type": "object",
        "additionalProperties": False,
        "required": ["training", *_required(fields)],
        "properties": properties | {one.name: _property(spec, one) for one in fields},
        "allOf": [_only("lora", "method", "full"), _only("dpo", "objective", "sft")],
    }


def _only(part: str, field: str, value: str) -> Schema:
    """Say that *part* may not stand where *field* is *value*."""
    return {"if": {"properties": {field: {"const": value}}}, "then": {"not": {"required": [part]}}}


def _required(fields: Iterable[Field]) -> list[str]:
    return [one.name for one in fields if not one.has_default and not (one.type and one.type.optional)]


def _property(spec: Spec, field: Field) -> Schema:
    described: Schema = {"description": field.doc} if field.doc else {}
    if field.name in PATHS:
        return {"type": "string", "minLength": 1, "description": f"Path of a file. {field.doc}"}
    struct = next((one for one in spec.types if field.type and one.name == field.type.name), None)
    if struct is not None:
        inner = {one.name: _property(spec, one) for one in struct.fields}
        return {"type": "object", "additionalProperties": False, **described, "properties": inner}
    schema = dict(field_schema(field))
    if "anyOf" in schema:  # an optional field is left out in a file, not null
        schema = {**next(one for one in schema.pop("anyOf") if one != {"type": "null"}), **schema}
    if isinstance(schema.get("type"), list):
        schema["type"] = next(one for one in schema["type"] if one != "null")
    schema.pop("writeOnly", None)
    return {**schema, **described}


def text_of(schema: Schema) -> str:
    """Return the file's text."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(text_of(training_schema(load_protocol("training").spec)), encoding="utf-8")
