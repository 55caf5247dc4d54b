"""``*.training.yaml``: a TrainRequest that people write, with paths instead of artifacts.

What a field may be is said once, by message ``TrainRequest`` of ``specs/training.protocol.yaml``.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from bus.fleet.project import find_project
from bus.spec.compile import load_protocol
from bus.spec.diagnostic import Report
from bus.spec.loader import load_document
from bus.spec.node import ListNode, MapNode, Node, Reader, plain, show
from bus.spec.syntax import Mark

FORM = "E-TRAINING"
NO_DATA = "E-NO-DATA"
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_GIVEN = ("task_id",)  # fields that the command fills in
_DATA = ("dataset", "evaluation")  # fields that are paths in the file and artifacts in the message
_NO_TASK = "00000000-0000-0000-0000-000000000000"  # stands in while the rest is checked
_MEDIA_TYPES = {".jsonl": "application/jsonl", ".json": "application/json", ".txt": "text/plain"}


@dataclass(frozen=True, slots=True)
class TrainingFile:
    """A checked training file.

    Attributes:
        name: What people call the training; the adapter's name unless they say otherwise.
        fields: Those of TrainRequest, but for the task's id; data as artifacts.
    """

    name: str
    fields: dict[str, object]


def load_training_file(path: Path) -> TrainingFile:
    """Return the training that the file at *path* orders.

    Raises:
        SpecError: The file cannot be read or is wrong, or its data is missing or empty; all findings are told.
    """
    report = Report()
    read = Reader(report, FORM)
    document = load_document(path)
    model = load_protocol("training").TrainRequest
    known = {one.alias or name for name, one in model.model_fields.items()} - set(_GIVEN)
    required = {one.alias or name for name, one in model.model_fields.items() if one.is_required()} - set(_GIVEN)
    nodes = read.fields(document, "the file", ("training", *sorted(known)), ("training", *sorted(required)))
    name = read.matching(nodes["training"], "training", _NAME, "a name") if "training" in nodes else None
    fields = {key: plain(node) for key, node in nodes.items() if key != "training"}
    for key in _DATA:
        if key in nodes:
            fields[key] = _artifact(read, nodes[key], key, path)
    if not report.has_errors:
        _check(model, fields, document, report)
    report.raise_errors()
    return TrainingFile(name or "", fields)


def new_artifact(path: Path) -> dict[str, object]:
    """Return the file at *path* as the fields of an artifact.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        size = file.tell()
    media_type = _MEDIA_TYPES.get(path.suffix, "application/octet-stream")
    return {"uri": path.resolve().as_uri(), "sha256": digest.hexdigest(), "size": size, "media_type": media_type}


def _artifact(read: Reader, node: Node, where: str, file: Path) -> dict[str, object] | None:
    """Return the data at the path in *node*, looked for beside the file, then in the project."""
    text = read.text(node, where, "a path")
    if text is None:
        return None
    tried = [folder / text for folder in (file.parent, find_project(file.parent).root, Path.cwd())]
    for path in tried:
        if path.is_file():
            break
    else:
        message = f"{where}: expected a file, got {text!r}, which does not exist (looked for {tried[0]})"
        read.report.error(node.mark, NO_DATA, message)
        return None
    if not path.stat().st_size:
        read.report.error(node.mark, NO_DATA, f"{where}: expected data, got an empty file: {path}")
        return None
    try:
        return new_artifact(path)
    except OSError as error:
        read.report.error(node.mark, NO_DATA, f"{where}: expected a file that can be read, got: {error.strerror}")
        return None


def _check(model: type[BaseModel], fields: dict[str, object], document: Node, report: Report) -> None:
    """Hold *fields* against the message type and place what is wrong."""
    try:
        model.model_validate({**fields, **dict.fromkeys(_GIVEN, _NO_TASK)})
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            mark, got = _place(document, detail["loc"])
            where = ".".join(str(part) for part in detail["loc"]) or "the file"
            expected = detail["msg"].removeprefix("Input should be ").removeprefix("Value should be ")
            report.error(mark, FORM, f"{where}: expected {expected}" + (f", got {got}" if got else ""))


def _place(node: Node, path: tuple[int | str, ...]) -> tuple[Mark, str]:
    """Return the mark of what *path* leads to, and what stands there; as far as the document goes."""
    for part in path:
        if isinstance(node, MapNode) and isinstance(part, str):
            inner = node.get(part)
        elif isinstance(node, ListNode) and isinstance(part, int) and part < len(node.items):
            inner = node.items[part]
        else:
            inner = None
        if inner is None:
            return node.mark, ""
        node = inner
    return node.mark, "" if isinstance(node, MapNode | ListNode) else show(node)
