"""Packages from npm that judge what we generate: installed once into the system's folder for temporary files.

Without npm the tests that want them are skipped, and say so; in CI (``CI=true``) they fail.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

# Versions that were tested; what they need is theirs to say. jsdom 26 is the newest for Node 18 and 20.
PACKAGES = {"mermaid": "11.17.2", "jsdom": "26.1.0", "@asyncapi/specs": "6.11.1"}
PATIENCE = 110.0  # seconds for an installation; the second time there is none


def npm_folder() -> Path:
    """Return a folder with ``node_modules``; skips the test where npm or the registry is absent."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        missing("npm and node are not installed")
    wanted = json.dumps(PACKAGES, sort_keys=True)
    folder = (
        Path(tempfile.gettempdir()) / f"palaver-npm-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}-{os.getuid()}"
    )
    if not (folder / "complete").exists():
        making = Path(tempfile.mkdtemp(prefix="palaver-npm-"))
        names = [f"{name}@{version}" for name, version in PACKAGES.items()]
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(making), *names]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        if done.returncode:
            shutil.rmtree(making)
            missing(f"npm could not install {', '.join(names)}: {done.stderr[-300:]}")
        (making / "complete").touch()
        try:
            making.rename(folder)
        except OSError:  # another run was quicker
            shutil.rmtree(making)
    return folder


def missing(why: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have it: {why}")
    pytest.skip(why)
