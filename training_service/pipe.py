"""Messages between the service and its child: four bytes of length, then that much JSON. No torch, no pickle."""

import json
from typing import BinaryIO

from training_service.errors import TrainingError
from training_service.event import Json

MAX_BYTES = 16 * 1024 * 1024
"""One message; data goes through files, so this is already far too much."""

LENGTH_BYTES = 4


def encode(message: Json) -> bytes:
    """Return the bytes of one message.

    Raises:
        TrainingError: It is longer than ``MAX_BYTES``.
    """
    data = json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    if len(data) > MAX_BYTES:
        raise TrainingError(f"expected at most {MAX_BYTES} bytes on the pipe, got {len(data)}: put data into files")
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def decode_length(head: bytes) -> int:
    """Return how many bytes of JSON follow *head*.

    Raises:
        TrainingError: More than ``MAX_BYTES``: whoever is at the other end is not ours.
    """
    length = int.from_bytes(head, "big")
    if length > MAX_BYTES:
        raise TrainingError(f"expected at most {MAX_BYTES} bytes on the pipe, got a length of {length}")
    return length


def decode(data: bytes) -> Json:
    """Return the message that the JSON in *data* is.

    Raises:
        TrainingError: It is no JSON object.
    """
    try:
        message = json.loads(data)
    except ValueError as error:
        raise TrainingError(f"expected JSON on the pipe, got {data[:40]!r}") from error
    if not isinstance(message, dict):
        raise TrainingError(f"expected a JSON object on the pipe, got {data[:40]!r}")
    return message


def read_message(file: BinaryIO) -> Json | None:
    """Return the next message, or None at the end. Blocks; *file* must be buffered."""
    head = file.read(LENGTH_BYTES)
    if len(head) < LENGTH_BYTES:
        return None
    length = decode_length(head)
    data = file.read(length)
    return decode(data) if len(data) == length else None
