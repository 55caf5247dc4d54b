"""Compile the pure modules to C with mypyc, in place; the same source runs without it, at half the speed.

    python scripts/compile.py [--remove]

Python prefers a compiled module to its source, so an edit needs another run; ``make`` does that, and the
tests refuse to start where it was forgotten. Which modules: the ``include`` list of the mypyc hook in
pyproject.toml, by which wheels are compiled too. Without a C compiler nothing is compiled.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import sys
import sysconfig
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GROUP = "palaver"  # of the extension that all modules share: palaver__mypyc
HOOK = ("tool", "hatch", "build", "targets", "wheel", "hooks", "mypyc")


def modules() -> list[str]:
    """Return the sources to compile, relative to the project."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for key in HOOK:
        table = table[key]
    wanted, unwanted = (
        {path for pattern in table[key] for path in ROOT.glob(pattern)} for key in ("include", "exclude")
    )
    return sorted(str(path.relative_to(ROOT)) for path in wanted - unwanted)


def compiled() -> list[Path]:
    """Return every compiled module that lies beside a source."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    return [*ROOT.glob(f"*__mypyc{suffix}"), *(ROOT / "bus").rglob(f"*{suffix}")]


def compile_all() -> None:
    """Compile all modules as one group, so that calls between them are C calls."""
    from mypyc.build import mypycify
    from setuptools import Distribution
    from setuptools.command.build_ext import build_ext

    os.chdir(ROOT)
    notes = io.StringIO()  # mypyc tells of each generator that it makes a list of
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(notes):
        try:
            extensions = mypycify(
                ["--config-file", "pyproject.toml", *modules()],
                opt_level="2",
                debug_level="0",
                group_name=GROUP,
                target_dir=folder,
            )
        except SystemExit:
            print(notes.getvalue(), file=sys.stderr)
            raise
        command = build_ext(Distribution({"name": GROUP, "ext_modules": extensions}))
        command.inplace = True
        command.build_temp = command.build_lib = folder
        command.ensure_finalized()
        command.run()


def main() -> None:
    """Compile or remove what was compiled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--remove", action="store_true", help="go back to the sources")
    arguments = parser.parse_args()
    for path in compiled():
        path.unlink()
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if arguments.remove:
        return
    if shutil.which(compiler) is None:
        print(f"No C compiler ({compiler}): the bus runs from its sources, at about half the speed.", file=sys.stderr)
        return
    compile_all()


if __name__ == "__main__":
    main()
