"""Our steps beside those of others: a loop that anybody would write, and TRL's trainers. Equal to 2e-6 in loss."""

from pathlib import Path
from typing import Any

import pytest
import torch
from colors import CPU, color_pairs
from datasets import Dataset as Table
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from training_service.data import Dataset, Example, Pair
from training_service.lora import AdapterHost
from training_service.model import Base, free_all, load_base
from training_service.plan import Plan
from training_service.request import Dpo, Lora
from training_service.steps import Steps

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),  # TRL sets it
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # PEFT asks for it
]
PLAN = Plan(steps=50, batch_rows=8, learning_rate=1e-3, weight_decay=0.0, seed=4, schedule="constant")
LORA = Lora(rank=4, alpha=8)
NEAR = 2e-6
PAIR_NEAR = 1e-5
"""A pair's loss hangs on log probabilities of whole answers, here down to -50, which float32 has to 4e-6."""


def steps_on(base: Base, method: str, rows: Any, plan: Plan) -> Steps:
    if method == "full":
        untouched = AdapterHost(load_base(base.folder, name="untouched", device=CPU))
        parameters = free_all(base)
    else:
        untouched = AdapterHost(base)
        parameters = untouched.attach("a1", LORA, seed=plan.seed)
        untouched.activate("a1")

    return Steps(
        base.model, parameters, rows, plan, pad_id=base.pad_id, reference=lambda: untouched.untouched(then="a1")
    )


def their_model(folder: Path, method: str) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if method == "full":
        return model
    torch.manual_seed(PLAN.seed)
    return get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))


def plain_losses(model: Any, batches: list[list[Example]], plan: Plan) -> list[float]:
    """The loop that everybody writes: whole batch, all logits, one mean."""
    parameters = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay)
    model.train()
    losses = []
    for rows in batches:
        width = max(len(row.tokens) for row in rows)
        tokens = torch.zeros((len(rows), width), dtype=torch.int64)
        labels, mask = torch.full_like(tokens, -100), torch.zeros_like(tokens)
        for index, row in enumerate(rows):
            tokens[index, : len(row.tokens)] = torch.tensor(row.tokens)
            mask[index, : len(row.tokens)] = 1
            for at, (token, trained) in enumerate(zip(row.tokens, row.trained, strict=True)):
                labels[index, at] = token if trained else -100
        logits = model(input_ids=tokens, attention_mask=mask).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, plan.max_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


class Listening:
    """Notes the loss of each step of a trainer."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.losses: list[float] = []
        super().__init__(*arguments, **named)

    def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*arguments, **named)  # type: ignore[misc]  # of the trainer beside
        self.losses.append(loss.item())
        return loss


class ListeningSft(Listening, SFTTrainer):  # type: ignore[misc]  # TRL is not typed
    pass


class ListeningDpo(Listening, DPOTrainer):  # type: ignore[misc]  # TRL is not typed
    def _prepare_dataset(self, dataset: Table, *arguments: Any) -> Table:
        return dataset  # tokens already


def trainer_options(folder: Path, plan: Plan) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "trl"),
        "max_steps": plan.steps,
        "per_device_train_batch_size": plan.batch_rows,
        "learning_rate": plan.learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": plan.weight_decay,
        "max_grad_norm": plan.max_norm,
        "train_sampling_strategy": "sequential",
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "remove_unused_columns": False,
    }


def trl_losses(folder: Path, method: str, batches: list[list[Example]], tmp_path: Path) -> list[float]:
    rows = [
        {
            "input_ids": list(row.tokens),
            "labels": [token if trained else -100 for token, trained in zip(row.tokens, row.trained, strict=True)],
        }
        for batch in batches
        for row in batch
    ]
    options = SFTConfig(**trainer_options(tmp_path, PLAN), dataset_kwargs={"skip_prepare_dataset": True})
    trainer = ListeningSft(
        model=their_model(folder, method),
        args=options,
        train_dataset=Table.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    trainer.train()
    return trainer.losses


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("architecture", ["tiny", "tiny_llama"])
def test_fifty_steps_equal_those_of_a_plain_loop_and_of_trl(
    architecture: str,
    method: str,
    dataset: Dataset,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    kept_randomness: None,
) -> None:
    folder: Path = request.getfixturevalue(architecture)
    steps = steps_on(load_base(folder, name="one", device=CPU), method, dataset.usable, PLAN)
    batches: list[list[Example]] = [steps.rows_of(step) for step in range(PLAN.steps)]  # type: ignore[misc]  # no pairs

    ours = [metrics.loss for metrics in steps]

    assert ours == pytest.approx(plain_losses(their_model(folder, method), batches, PLAN), abs=NEAR)
    assert ours == pytest.approx(trl_losses(folder, method, batches, tmp_path), abs=NEAR)
    assert ours[-1] < ours[0]


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize(
    ("loss_type", "batch_rows", "label_smoothing"),
    [("sigmoid", 4, 0.0), ("aot", 1, 0.1)],  # TRL smooths labels in its aot loss, over one pair the sigmoid one
)
def test_preference_steps_equal_those_of_trl(
    method: str,
    loss_type: str,
    batch_rows: int,
    label_smoothing: float,
    tiny: Path,
    base: Base,
    tmp_path: Path,
    kept_randomness: None,
) -> None:
    dpo = Dpo(beta=0.5, label_smoothing=label_smoothing)
    plan = Plan(6, batch_rows, learning_rate=1e-3, weight_decay=0.0, seed=4, schedule="constant", dpo=dpo)
    steps = steps_on(base, method, color_pairs(base), plan)
    pairs = [pair for step in range(plan.steps) for pair in steps.rows_of(step) if isinstance(pair, Pair)]
    rows = []
    for pair in pairs:
        n_prompt = pair.chosen.trained.index(True)
        chosen, rejected = list(pair.chosen.tokens), list(pair.rejected.tokens)
        rows.append(
            {"prompt_ids": chosen[:n_prompt], "chosen_ids": chosen[n_prompt:], "rejected_ids": rejected[n_prompt:]}
        )
    trainer = ListeningDpo(
        model=their_model(tiny, method),
        args=DPOConfig(
            **trainer_options(tmp_path, plan), beta=0.5, label_smoothing=label_smoothing, loss_type=[loss_type]
        ),
        train_dataset=Table.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(tiny),
    )

    trainer.train()
    ours = [metrics.loss for metrics in steps]

    assert ours == pytest.approx(trainer.losses, abs=PAIR_NEAR)
    assert ours[0] == pytest.approx(0.693147, abs=1e-6)  # log 2: nothing learned yet
    assert ours[-1] < ours[0]
