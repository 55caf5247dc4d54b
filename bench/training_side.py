"""One side of a comparison of ``bench/training.py``, a process of its own; prints JSON.

python bench/training_side.py step --base DIR --steps N      ours and a plain loop, step by step in turns
python bench/training_side.py vocabulary --who ours|trl      the memory that one step adds at 262,144 tokens
python bench/training_side.py journal --folder DIR           how a checkpoint's writing slows another file's syncs
python bench/training_side.py trl --base DIR --data FILE --rank R --steps N --rows B    one run of TRL's trainer
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(folder for folder in sys.path if Path(folder).resolve() != HERE)]

VOCABULARY, WIDTH, TOKENS = 262_144, 192, 512
CHECKPOINT_BYTES = 200 * 1024 * 1024
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def memory(name: str) -> int:
    """Return a figure of this process in bytes: VmRSS, or VmHWM since ``CLEAR`` was written."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def compare_steps(base_folder: Path, n_steps: int) -> dict[str, float]:
    """Time full-parameter steps of ours and of a plain loop in turns, on equal rows; return medians."""
    from training_service.data import Example
    from training_service.loss import collate
    from training_service.model import free_all, load_base
    from training_service.plan import Plan
    from training_service.steps import Steps

    cpu = torch.device("cpu")
    base, other = (load_base(base_folder, name="base", device=cpu) for _ in range(2))
    chance = random.Random(0)
    rows = [
        Example(tuple(chance.randrange(6, 1000) for _ in range(48)), (False,) + (True,) * 47)
        for _ in range(8 * n_steps)
    ]
    plan = Plan(steps=n_steps, batch_rows=8, learning_rate=1e-4, weight_decay=0.0, seed=0, schedule="constant")
    steps = Steps(base.model, free_all(base), rows, plan, pad_id=base.pad_id)
    ours, model = iter(steps), other.model
    model.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
    took: dict[str, list[float]] = {"ours": [], "plain": []}
    for number in range(n_steps):
        chosen = steps.rows_of(number)
        sides = ["ours", "plain"] if number % 2 else ["plain", "ours"]
        for side in sides:
            began_at = time.perf_counter()
            if side == "ours":
                next(ours)
            else:
                batch = collate(chosen, pad_id=base.pad_id, device=cpu)
                labels = batch.tokens.masked_fill(batch.attention == 0, -100)
                loss = model(input_ids=batch.tokens, attention_mask=batch.attention, labels=labels).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                loss.item()
            took[side].append(time.perf_counter() - began_at)
    ratios = sorted(one / other for one, other in zip(took["ours"][2:], took["plain"][2:], strict=True))
    return {
        "ours_step_s": sorted(took["ours"])[n_steps // 2],
        "plain_step_s": sorted(took["plain"])[n_steps // 2],
        "step_ratio": ratios[len(ratios) // 2],
    }


def vocabulary_memory(who: str, *, trains_head: bool) -> dict[str, float]:
    """Return the bytes that one step adds over the resident model, and its loss."""
    from training_service.data import Example
    from training_service.loss import collate, loss_sum

    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, head_dim=WIDTH // 2, max_position_embeddings=2048,
        dtype="float32",
    )  # fmt: skip
    model = transformers.Gemma3ForCausalLM(config).float()
    model.requires_grad_(trains_head)
    model.model.layers.requires_grad_(True)
    model.train()
    if who == "trl":
        from trl.trainer.utils import add_fused_lm_head

        add_fused_lm_head(model)
    row = torch.randint(6, VOCABULARY, (TOKENS,)).tolist()
    cpu = torch.device("cpu")
    batch = collate([Example(tuple(row), (False,) + (True,) * (TOKENS - 1))], pad_id=0, device=cpu)
    short = collate([Example(tuple(row[:20]), (False,) + (True,) * 19)], pad_id=0, device=cpu)
    (loss_sum(model, short) / 19).backward()  # what is allocated once is allocated before
    model.zero_grad(set_to_none=True)
    gc.collect()
    before = memory("VmRSS")
    CLEAR.write_text("5")  # proc(5): resets the high-water mark
    if who == "trl":
        loss = model(
            input_ids=batch.tokens, attention_mask=batch.attention, labels=batch.tokens.clone(), fused_lm_head=True
        ).loss
    else:
        loss = loss_sum(model, batch) / (TOKENS - 1)
    loss.backward()
    return {"added_bytes": memory("VmHWM") - before, "loss": loss.item()}


def train_with_trl(base: Path, data: Path, *, rank: int, n_steps: int, n_rows: int) -> dict[str, float]:
    """Train one LoRA with TRL's SFTTrainer and return its last loss and the process's peak."""
    from datasets import load_dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    with tempfile.TemporaryDirectory() as out:
        rows = load_dataset("json", data_files=str(data), split="train", cache_dir=f"{out}/cache")
        trainer = SFTTrainer(
            model=str(base),
            args=SFTConfig(
                output_dir=out, max_steps=n_steps, per_device_train_batch_size=n_rows, learning_rate=1e-3,
                use_cpu=True, bf16=False, report_to=[], save_strategy="no", logging_steps=n_steps, disable_tqdm=True,
                gradient_checkpointing=False, model_init_kwargs={"dtype": "float32"},
            ),
            train_dataset=rows,
            peft_config=LoraConfig(r=rank, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        )  # fmt: skip
        trainer.train()
        trainer.save_model(out)
    return {"loss": trainer.state.log_history[0].get("loss", 0.0), "peak_bytes": memory("VmHWM")}


def journal_syncs(folder: Path) -> dict[str, float]:
    """Return the p99 of a journal's fdatasync alone, beside a checkpoint as it is written, and beside one at once."""
    from training_service.artifact import PIECE_BYTES, synced_file

    def throttled() -> None:
        with synced_file(folder / "throttled") as file:
            for _ in range(CHECKPOINT_BYTES // PIECE_BYTES):
                file.write(os.urandom(PIECE_BYTES))

    def at_once() -> None:
        with (folder / "at-once").open("wb") as file:
            for _ in range(CHECKPOINT_BYTES // PIECE_BYTES):
                file.write(os.urandom(PIECE_BYTES))
            os.fsync(file.fileno())

    alone = _p99_beside(folder, lambda: time.sleep(3.0))
    found = {name: _p99_beside(folder, write) for name, write in (("throttled", throttled), ("at_once", at_once))}
    return {
        "journal_fsync_p99_ms": alone * 1e3,
        "checkpoint_fsync_p99_ratio": found["throttled"] / alone,
        "checkpoint_at_once_fsync_p99_ratio": found["at_once"] / alone,
    }


def _p99_beside(folder: Path, work: Callable[[], None]) -> float:
    """Return the p99 in seconds of appending 4 KiB to a journal and syncing it, again and again during *work*."""
    took = []
    beside = threading.Thread(target=work)
    with (folder / "journal").open("ab", buffering=0) as journal:
        beside.start()
        while beside.is_alive():
            journal.write(bytes(4096))
            began_at = time.perf_counter()
            os.fdatasync(journal.fileno())
            took.append(time.perf_counter() - began_at)
            time.sleep(0.002)
    return sorted(took)[int(len(took) * 0.99)]


def main() -> None:
    """Print one side's figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("step", "vocabulary", "journal", "trl"))
    parser.add_argument("--base", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--who", default="ours")
    parser.add_argument("--frozen", action="store_true")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rows", type=int, default=8)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(2)
    if given.what == "step":
        found = compare_steps(given.base, given.steps)
    elif given.what == "vocabulary":
        found = vocabulary_memory(given.who, trains_head=not given.frozen)
    elif given.what == "journal":
        found = journal_syncs(given.folder)
    else:
        found = train_with_trl(given.base, given.data, rank=given.rank, n_steps=given.steps, n_rows=given.rows)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
