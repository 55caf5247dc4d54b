"""Nothing that the service writes is a pickle or holds one: every file is read, whatever it is called."""

import json
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from colors import NewRequest
from talk import Talk

from training_service.artifact import ADAPTER_TYPE, CHECKPOINT_TYPE, MANIFEST, MODEL_TYPE
from training_service.card import CARD
from training_service.history import HISTORY
from training_service.merge import merge
from training_service.merge_order import MergeOrder
from training_service.record import RECORD
from training_service.run import Places
from training_service.shelf import export

WORDS = {".json", ".jsonl", ".jinja", ".md", ""}
"""How the names of files end that hold text; "" are locks, which are empty."""

PICKLED = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".joblib", ".zip"}
"""How the names of files end that usually are pickles or hold some."""

PROTOCOL = re.compile(rb"\x80[\x02-\x05]")
"""How every pickle begins since 2003."""

EVENTS = "events.out.tfevents"


def is_pickle(data: bytes) -> bool:
    """Return whether a pickle, of any protocol, begins where *data* does."""
    try:
        return bool(list(pickletools.genops(data)))
    except ValueError:
        return False


def why_suspect(path: Path) -> str | None:
    """Return what speaks for a pickle in *path*, or None where all that it can be is something else."""
    data = path.read_bytes()
    if path.suffix in PICKLED:
        return "its name"
    if zipfile.is_zipfile(path):
        return "a zip"
    if path.suffix == ".safetensors":
        return why_no_safetensors(data)
    if is_pickle(data) or any(is_pickle(data[one.start() :]) for one in PROTOCOL.finditer(data)):
        return "a pickle"
    if EVENTS in path.name:
        return None
    if path.suffix not in WORDS:
        return f"a name that nobody knows: {path.suffix}"
    try:
        data.decode()
    except UnicodeDecodeError:
        return "no text"
    return None


def why_no_safetensors(data: bytes) -> str | None:
    """Return what *data* has beside a header and the numbers that this names, to the last byte."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        offsets = sorted(one["data_offsets"] for one in header.values())
    except (ValueError, KeyError, AttributeError):
        return "no safetensors"
    ends = [0, *(end for _, end in offsets)]
    if [start for start, _ in offsets] != ends[:-1] or 8 + length + ends[-1] != len(data):
        return "something beside its tensors"
    return None


def suspects(*folders: Path) -> dict[str, str]:
    """Return the names of all files that are or may hold a pickle, and why."""
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    assert files
    return {path.name: why for path in files if (why := why_suspect(path)) is not None}


def save_old(path: Path) -> None:
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)


def save_with_head(path: Path) -> None:
    """Write a pickle behind an empty header of safetensors."""
    path.write_bytes((2).to_bytes(8, "little") + b"{}" + pickle.dumps({"a": 1}))


@pytest.mark.parametrize("name", ["state.json", "adapter_model.safetensors", "README.md", "state", EVENTS + ".1"])
@pytest.mark.parametrize(
    "save",
    [
        lambda path: torch.save({"a": torch.ones(2)}, path),
        save_old,
        *(lambda path, n=n: path.write_bytes(pickle.dumps({"a": [1, "b"]}, protocol=n)) for n in range(6)),
    ],
)
def test_a_pickle_is_found_whatever_it_is_called(save: Callable[[Path], None], name: str, tmp_path: Path) -> None:
    """The positive control of the scan below."""
    save(tmp_path / name)

    assert suspects(tmp_path).keys() == {name}


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("pytorch_model.bin", lambda path: path.write_bytes(b"{}")),
        ("x.safetensors", save_with_head),
        ("log.jsonl", lambda path: path.write_bytes(b'{"step": 1}\n' + pickle.dumps([1]))),
        (EVENTS, lambda path: path.write_bytes(b"\x18\0\0\0\0\0\0\0" + pickle.dumps([1]) + b"\0")),
        ("state.dat", lambda path: path.write_bytes(b"\0\1\2")),
    ],
)
def test_what_holds_a_pickle_or_may_is_found(name: str, save: Callable[[Path], None], tmp_path: Path) -> None:
    save(tmp_path / name)

    assert suspects(tmp_path).keys() == {name}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorboard's own generated code
def test_nothing_on_disk_is_or_holds_a_pickle(
    new_request: NewRequest, talk: Talk, places: Places, models_dir: Path, tmp_path: Path
) -> None:
    """An adapter, a full model, a merged one, checkpoints, records, histories, event files, an export."""
    state, root = places.runs.parent, tmp_path / "out"
    root.mkdir()
    order = {"max_steps": 2, "checkpoint_every": 1, "tensorboard": True, "evaluation_share": 0.25}
    for method in ("lora", "full"):
        talk.train(new_request(method, method=method, adapter=method, accept_warnings=True, **order))
    places.registry.set_alias("stable", "lora")
    merge(MergeOrder("stable", "merged", models_dir, state, (tmp_path,)))
    for name in ("lora", "full", "merged"):
        export(places.registry.find(name), name, [root])
    files = [path for folder in (state, root) for path in folder.rglob("*") if path.is_file()]
    types = {json.loads(path.read_bytes())["media_type"] for path in files if path.name == MANIFEST}

    assert types == {ADAPTER_TYPE, MODEL_TYPE, CHECKPOINT_TYPE}
    assert {RECORD, HISTORY, CARD, "tokenizer.json"} <= {path.name for path in files}
    assert sum(EVENTS in path.name for path in files) == 2
    assert suspects(state, root, models_dir) == {}
