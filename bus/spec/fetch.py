"""Finds the files that a spec imports or calls, and theirs, on disk. What they mean is the linker's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bus.spec.bundle import SpecText
from bus.spec.linker import SUFFIX, Bundle, SpecFile, read_spec
from bus.spec.loader import load_text
from bus.spec.reference import Reference

MAX_FILES = 32  # in one bundle: a peer may hand a broker as many


def fetch_bundle(path: Path, folders: Sequence[Path]) -> tuple[SpecText, ...]:
    """Return the text at *path* and behind it those that it needs.

    A file is looked for beside the one that asks for it, then in *folders*. Where none is found that fits, the
    bundle has those of another version or without any form, so that the linker can say what is wrong.

    Raises:
        SpecError: The file at *path*, or one that it needs, cannot be read.
    """
    first = SpecText(str(path), load_text(path))
    if not any(key in first.text for key in ("imports", "call")):  # most need no others, and no second reading
        return (first,)
    files = [read_spec(first)]
    tried: set[Reference] = set()
    while len(files) <= MAX_FILES:
        needed, missing = Bundle(files).reached(files[0])
        wanted = next(((by, reference) for by, reference in missing if reference not in tried), None)
        if wanted is None:
            others = [file for file in files if file not in needed] if missing else []
            return tuple(file.source for file in (*needed, *others))
        by, reference = wanted
        tried.add(reference)
        known = {Path(one.source.file).resolve() for one in files}
        files += _find(reference, [Path(by.source.file).parent, *folders], known=known)
    return tuple(file.source for file in files)


def _find(reference: Reference, folders: Sequence[Path], *, known: set[Path]) -> list[SpecFile]:
    """Return the nearest file that fits; where none does, all that bear the name. *known* ones are passed over."""
    found = []
    for folder in folders:
        path = folder / (reference.name + SUFFIX)
        if path.resolve() in known or not path.is_file():
            continue
        known.add(path.resolve())
        file = read_spec(SpecText(str(path), load_text(path)))
        if Bundle([file]).find(reference) is file:
            return [file]
        found.append(file)
    return found
