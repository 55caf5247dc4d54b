"""Tensors on disk: safetensors files, written in throttled synced pieces. Never a pickle.

The format is eight bytes of length, that much JSON, then the raw data; writing it here instead of through the
library costs no second copy in memory, and lets the write be throttled (TRAINING.md, traps 8 and 11).
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from training_service.artifact import synced_file
from training_service.errors import ArtifactDamaged
from training_service.model import tensor_bytes

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def as_it_is(_: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return *tensor*."""
    return tensor


def write_tensors(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    *,
    metadata: Mapping[str, str],
    gather: Callable[[str, torch.Tensor], torch.Tensor] = as_it_is,
) -> None:
    """Write a new safetensors file; it is on disk when this returns. *tensors* may be on any device.

    Args:
        path: Must not exist.
        tensors: By name; what is shared out among ranks counts with its whole shape.
        metadata: Goes into the header.
        gather: Called once for each tensor, in the order of the names, and returns all of it.
    """
    if sys.byteorder != "little":
        raise OSError("expected a little-endian machine: the file's numbers would be turned around")
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with synced_file(path) as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in sorted(tensors):
            for piece in tensor_bytes(gather(name, tensors[name])):
                file.write(piece)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return what ``write_tensors`` wrote, on the CPU.

    Raises:
        ArtifactDamaged: *path* is no safetensors file.
    """
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise ArtifactDamaged(f"{path}: expected a safetensors file, got: {error}") from error
