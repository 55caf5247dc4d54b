"""Checkpoints: all that continues a run exactly, as one artifact of safetensors and JSON."""

import json
import os
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

from training_service.artifact import CHECKPOINT_TYPE, canonical_json, publish, synced_file, verify
from training_service.errors import ArtifactDamaged
from training_service.event import Metrics
from training_service.request import Artifact
from training_service.steps import Steps
from training_service.tensors import read_tensors, write_tensors

STATE, FACTS = "state.safetensors", "state.json"
LIBRARIES = ("torch", "transformers", "peft", "safetensors", "tokenizers")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a checkpoint belongs to and where it stands.

    Attributes:
        threads: Of the arithmetic; going on is bit-exact with the same count only.
    """

    task_id: str
    base_sha256: str
    dataset_sha256: str
    step: int
    tokens: int
    seconds: float
    threads: int
    metrics: Metrics | None
    versions: dict[str, str]


_FILE = TypeAdapter(Facts)


def library_versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {name: version(name) for name in LIBRARIES}


def write_checkpoint(
    artifacts: Path,
    steps: Steps,
    *,
    task_id: str,
    base_sha256: str,
    dataset_sha256: str,
    seconds: float,
    metrics: Metrics | None,
) -> Artifact:
    """Put the state of *steps* on disk and return where; call between two steps.

    Raises:
        DiskFull: There is no room. Earlier checkpoints stand.
    """
    tensors, numbers = steps.state()
    facts = Facts(
        task_id=task_id,
        base_sha256=base_sha256,
        dataset_sha256=dataset_sha256,
        step=numbers["step"],
        tokens=numbers["tokens"],
        seconds=seconds,
        threads=torch.get_num_threads(),
        metrics=metrics,
        versions=library_versions(),
    )

    def fill(folder: Path) -> None:
        write_tensors(folder / STATE, tensors, metadata={"format": "pt"}, gather=steps.gather)
        with synced_file(folder / FACTS) as file:
            file.write(canonical_json(asdict(facts)))

    return publish(artifacts, CHECKPOINT_TYPE, fill)


def restore_checkpoint(artifact: Artifact, steps: Steps, *, base_sha256: str, dataset_sha256: str) -> Facts:
    """Bring *steps* to where *artifact* stands and return its facts.

    Raises:
        ArtifactDamaged: The files are not whole, or belong to another base, dataset or run.
    """
    folder = verify(artifact)
    try:
        facts = _FILE.validate_python(json.loads((folder / FACTS).read_bytes()))
    except (OSError, ValueError, ValidationError) as error:
        raise ArtifactDamaged(f"{folder / FACTS}: expected the facts of a checkpoint, got: {error}") from error
    for what, wanted, got in (
        ("base", base_sha256, facts.base_sha256),
        ("dataset", dataset_sha256, facts.dataset_sha256),
    ):
        if wanted != got:
            raise ArtifactDamaged(f"{folder}: expected a checkpoint over {what} {wanted[:12]}…, got {got[:12]}…")
    steps.restore(read_tensors(folder / STATE), {"step": facts.step, "tokens": facts.tokens})
    return facts


def set_threads() -> None:
    """Let the arithmetic have as many threads as ``OMP_NUM_THREADS`` says, else what the library chose."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0:
        torch.set_num_threads(int(given))
