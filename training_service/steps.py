"""**The** loop: one for full and LoRA, a generator of optimizer steps.

Everything that decides a step is the run's own: its parameters, optimizer, random state and place in the data. So
a run beside others, paused, evicted or resumed takes the same steps as alone, bit for bit on one machine with one
thread count. Knows nothing of adapters, files or other runs.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedModel

from training_service.batch import batch_indices, micro_batches, steps_per_epoch
from training_service.data import Example
from training_service.errors import ArtifactDamaged, ExactnessBroken, NanLoss
from training_service.event import Metrics
from training_service.loss import collate, loss_sum
from training_service.model import check_masters
from training_service.request import TrainingRequest
from training_service.team import ALONE, Team, random_name

MICRO_TOKENS = 16_384
"""Padded tokens of one forward pass; a step with more is cut into several."""

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""What AdamW keeps for each parameter."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the steps of a run are, decided before the first."""

    steps: int
    batch_rows: int
    learning_rate: float
    weight_decay: float
    seed: int
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup_steps: int = 0
    max_norm: float = 1.0
    micro_rows: int | None = None

    def rate(self, step: int) -> float:
        """Return the learning rate of step *step*, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        if self.schedule == "linear":
            return self.learning_rate * (1 - done)
        if self.schedule == "cosine":
            return self.learning_rate * (1 + math.cos(math.pi * done)) / 2
        return self.learning_rate


def plan_of(request: TrainingRequest, n_rows: int) -> Plan:
    """Return the plan of *request* over *n_rows* usable rows; ``max_steps`` goes before ``epochs``."""
    each = steps_per_epoch(n_rows, request.batch_rows)
    steps = request.max_steps if request.max_steps is not None else max(1, math.ceil(request.epochs * each))
    return Plan(
        steps=steps,
        batch_rows=request.batch_rows,
        learning_rate=request.learning_rate,
        weight_decay=request.weight_decay,
        seed=request.seed,
    )


class Steps:
    """One run's own loop state: parameters, optimizer, randomness, and how far it is.

    Whoever shares the model between runs sees to it that the right adapter is active at each ``next``.

    Args:
        model: Computes; everything in it but *parameters* stays as it is.
        parameters: What is trained, by name; float32.
        examples: Rows that train something, in a fixed order.
        plan: See there.
        pad_id: Fills short rows.
        team: Who takes the steps together; every rank has steps of its own.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        parameters: Mapping[str, torch.nn.Parameter],
        examples: Sequence[Example],
        plan: Plan,
        *,
        pad_id: int,
        team: Team = ALONE,
    ) -> None:
        check_masters(parameters)
        self.parameters = dict(parameters)
        self.plan = plan
        self.step = 0
        self.tokens = 0
        self._model = model
        self._examples = examples
        self._pad_id = pad_id
        self.team = team
        self._device = next(iter(self.parameters.values())).device
        self._optimizer = torch.optim.AdamW(
            list(self.parameters.values()), lr=plan.learning_rate, weight_decay=plan.weight_decay
        )
        self.randomness = seeded_randomness(plan.seed + team.rank, self._device)

    def __iter__(self) -> Iterator[Metrics]:
        """Take one step for each ``next``, up to the last of the plan.

        Raises:
            NanLoss: The loss or gradient is not finite. The step is not taken.
            ExactnessBroken: Some parameter got no gradient in the first step.
        """
        while self.step < self.plan.steps:
            yield self._take_step()

    def rows_of(self, step: int) -> list[Example]:
        """Return the rows that step *step* takes."""
        plan = self.plan
        chosen = batch_indices(len(self._examples), plan.batch_rows, seed=plan.seed, step=step)
        return [self._examples[index] for index in chosen]

    def largest_rows(self) -> list[Example]:
        """Return the longest rows that one step may come to hold."""
        return sorted(self._examples, key=lambda row: len(row.tokens), reverse=True)[: self.plan.batch_rows]

    def _take_step(self) -> Metrics:
        began_at = time.perf_counter()
        self.team.begin()
        rows = self.rows_of(self.step)
        rate = self.plan.rate(self.step)
        swap_randomness(self.randomness, self._device)
        try:
            loss = self.accumulate(rows)
            self._check_gradients(loss)
        except BaseException:
            self._optimizer.zero_grad(set_to_none=True)
            raise
        finally:
            self.randomness = swap_randomness(self.randomness, self._device)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.step += 1
        n_tokens = sum(len(row.tokens) for row in rows)
        self.tokens += n_tokens
        return Metrics(self.step, loss, rate, n_tokens / (time.perf_counter() - began_at))

    def accumulate(self, rows: Sequence[Example]) -> float:
        """Add the gradient of the mean loss over all trained tokens of *rows* and return that mean."""
        self._model.train()
        n_targets = sum(row.n_trained for row in rows)
        total = 0.0
        for part, weight in self.team.shares(rows, self._parts):
            batch = collate(part, pad_id=self._pad_id, device=self._device)
            loss = self.team.compute(self._model, loss_sum, batch)
            torch.autograd.backward(loss * weight / n_targets)
            total += loss.item() * weight
        return self.team.total(torch.tensor(total, dtype=torch.float64)).item() / n_targets

    def _parts(self, rows: Sequence[Example]) -> Iterator[Sequence[Example]]:
        return micro_batches(rows, self.plan.micro_rows, MICRO_TOKENS)

    def drop_gradients(self) -> None:
        """Forget what ``accumulate`` added."""
        self._optimizer.zero_grad(set_to_none=True)

    def _check_gradients(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise NanLoss(f"step {self.step + 1}: expected a finite loss, got {loss}; lower the learning rate")
        if self.step == 0:
            missing = [name for name, one in self.parameters.items() if one.grad is None]
            if missing:
                n_all = len(self.parameters)
                raise ExactnessBroken(
                    f"expected a gradient for all {n_all} trained tensors, got {n_all - len(missing)}: "
                    f"none for {', '.join(missing[:3])}"
                )
        norm = self.team.whole(torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.plan.max_norm))
        if not torch.isfinite(norm):
            raise NanLoss(f"step {self.step + 1}: expected a finite gradient, got norm {norm.item()}; lower the rate")

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
        """Return all that ``restore`` needs: tensors (the live ones, not copies) and numbers.

        Of a tensor that is shared out this is the rank's own share: ``gather`` gives all of it.
        """
        tensors: dict[str, torch.Tensor] = {f"weight/{name}": one.detach() for name, one in self.parameters.items()}
        for name, parameter in self.parameters.items():
            for moment, tensor in self._optimizer.state.get(parameter, {}).items():
                tensors[f"{moment}/{name}"] = tensor
        tensors |= self.team.everyones(self.randomness)
        return tensors, {"step": self.step, "tokens": self.tokens}

    def gather(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Return all of one tensor of ``state``, whoever holds its shares."""
        return self.team.gather(name, tensor)

    def tensor(self, name: str) -> torch.Tensor:
        """Return the weight or moment called *name* in ``state``: this rank's share of it."""
        kind, _, parameter = name.partition("/")
        own = self.parameters[parameter]
        found: torch.Tensor = own.detach() if kind == "weight" else self._optimizer.state[own][kind]
        return found

    def restore(self, tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, int]) -> None:
        """Continue from what ``state`` gave, maybe in another process.

        Raises:
            ArtifactDamaged: The tensors are not exactly those of this run. Nothing is changed.
        """
        wanted = {f"weight/{name}" for name in self.parameters}
        wanted |= {random_name(kind, rank) for kind in self.randomness for rank in range(self.team.size)}
        if numbers["step"]:
            wanted |= {f"{moment}/{name}" for name in self.parameters for moment in MOMENTS}
        if wanted != tensors.keys():
            odd = sorted(wanted ^ tensors.keys())[:3]
            raise ArtifactDamaged(f"expected the {len(wanted)} tensors of this run's checkpoint, got others: {odd}")
        for name, parameter in self.parameters.items():
            got = tensors[f"weight/{name}"].shape
            if got != parameter.shape:
                raise ArtifactDamaged(f"{name}: expected shape {list(parameter.shape)}, got {list(got)}")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.team.place(tensors[f"weight/{name}"], parameter))
                moments = {moment: tensors[f"{moment}/{name}"].clone() for moment in MOMENTS} if numbers["step"] else {}
                for moment in ("exp_avg", "exp_avg_sq"):
                    if moments:
                        moments[moment] = self.team.place(moments[moment].to(parameter.device), parameter)
                self._optimizer.state[parameter] = moments
        self.randomness = {kind: tensors[random_name(kind, self.team.rank)].clone() for kind in self.randomness}
        self.step, self.tokens = numbers["step"], numbers["tokens"]


def seeded_randomness(seed: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Return the random state that *seed* gives: of the CPU and, where it computes, of the accelerator."""
    devices = {"cpu": torch.device("cpu"), device.type: device}
    return {name: torch.Generator(one).manual_seed(seed).get_state() for name, one in devices.items()}


def swap_randomness(new: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Make *new* the process's random state and return the one that it replaces."""
    old = {"cpu": torch.get_rng_state()}
    torch.set_rng_state(new["cpu"])
    if device.type == "cuda":
        old["cuda"] = torch.cuda.get_rng_state(device)
        torch.cuda.set_rng_state(new["cuda"], device)
    return old
