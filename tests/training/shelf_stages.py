"""Run by ``test_shelf_faults``: kills a forked copy of this process before each change of a file on the shelf.

Prints one JSON line a stage: by which signal the copy ended, what is there then, and what a second try makes of it.
Loads no torch.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from file_faults import stages

from training_service.adapters import Adapter, Provenance, Registry
from training_service.artifact import CHECKPOINT_TYPE, MANIFEST, publish, verify
from training_service.errors import NoSuchAdapter
from training_service.shelf import export
from training_service.sweep import sweep

SOURCE = Provenance("5b0c1f0e-4b7c-4a55-9d0f-0f6f3a6a3a11", {}, "2" * 64, 0, {"loss": 0.5}, {"torch": "2"})
LARGE = b"x" * 100_000


def _fill(work: Path) -> None:
    (work / "a").write_bytes(LARGE)


def add(folder: Path, name: str = "colors") -> Adapter:
    """Publish a file and register it."""
    artifact = publish(folder / "artifacts", CHECKPOINT_TYPE, _fill)
    return Registry(folder / "adapters").register(
        name, kind="adapter", artifact=artifact, base="tiny", base_sha256="3" * 64, provenance=SOURCE
    )


def take_out(folder: Path) -> None:
    """Export ``colors`` into the folder ``out``, if it is not there yet."""
    if not (folder / "out").exists():
        export(Registry(folder / "adapters").find("colors"), "out", [folder])


def delete(folder: Path) -> None:
    """Delete ``colors`` if it is there yet."""
    try:
        Registry(folder / "adapters").delete("colors@1", may_go=lambda _: None)
    except NoSuchAdapter:
        assert Registry(folder / "adapters").all() == ()


WORKS: dict[str, Callable[[Path], object]] = {"register": add, "export": take_out, "delete": delete}


def whole(folder: Path) -> list[str]:
    """Return what there is, all of which is whole: versions, artifacts by their number, an export."""
    listed = [one.label for one in Registry(folder / "adapters").all() if verify(one.artifact)]
    artifacts = [one for one in (folder / "artifacts").glob("[!.]*") if (one / MANIFEST).is_file()]
    assert len(artifacts) == len(list((folder / "artifacts").glob("[!.]*")))
    out = folder / "out"
    assert not out.exists() or ((out / "a").read_bytes() == LARGE and (out / MANIFEST).is_file())
    return [*listed, *("artifact" for _ in artifacts), *(["out"] if out.exists() else [])]


def main(work: str, folder: Path) -> None:
    if work != "register":
        add(folder)
    for signal in stages(folder, lambda: WORKS[work](folder)):
        there = whole(folder)
        WORKS[work](folder)
        again = whole(folder)
        sweep(folder / "artifacts", folder / "runs")
        left = [one.name for one in (folder / "artifacts").glob(".*")]
        print(json.dumps({"signal": signal, "there": there, "again": again, "left": left}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
