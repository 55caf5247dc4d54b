"""Run by ``test_shelf_faults``: kills a forked copy of this process before each change of a file in a merge.

One thread, so that a process that has computed may be forked. Prints one JSON line a stage: by which signal the copy
ended and what is there then; and for some, what a second merge makes of it once a new child has swept up.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from file_faults import in_a_copy, stages

from training_service.adapters import Registry
from training_service.artifact import MANIFEST, WORK_PREFIX, verify
from training_service.merge import merge
from training_service.merge_order import MergeOrder
from training_service.sweep import sweep


def main(state: Path, models: Path) -> None:
    registry, artifacts = Registry(state / "adapters"), state / "artifacts"
    order, seen = MergeOrder("colors@1", "whole", models, state, (state.parent,)), set()
    for signal in stages(state, lambda: merge(order)):
        listed = [one.label for one in registry.all() if verify(one.artifact)]
        damaged = [one.name for one in artifacts.glob("[!.]*") if not (one / MANIFEST).is_file()]
        sweep(artifacts, state / "runs")
        left = [one.name for one in artifacts.glob(f"{WORK_PREFIX}*")]
        print(json.dumps({"signal": signal, "listed": listed, "damaged": damaged, "left": left}), flush=True)
        there = (tuple(listed), len(list(artifacts.iterdir())))
        if there not in seen:  # else a second merge begins as one did before
            seen.add(there)
            assert in_a_copy(lambda: print(json.dumps({"again": merge(order).artifact.sha256}))) is None


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    main(Path(sys.argv[1]), Path(sys.argv[2]))
