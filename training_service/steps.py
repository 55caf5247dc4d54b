"""**The** loop: one for full and LoRA, for rows and pairs, a generator of optimizer steps.

Everything that decides a step is the run's own: its parameters, optimizer, random state and place in the data. So
a run beside others, paused, evicted or resumed takes the same steps as alone, bit for bit on one machine with one
thread count. Knows nothing of adapters, files or other runs.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from transformers import PreTrainedModel

from training_service.batch import Batches, examples_of, micro_batches, n_computed, n_tokens
from training_service.by_row import by_row
from training_service.data import Example, Pair
from training_service.errors import ArtifactDamaged, ExactnessBroken, NanLoss
from training_service.event import Metrics
from training_service.loss import check_head, loss_sum
from training_service.model import check_masters
from training_service.packing import check_packing, put_together
from training_service.plan import Plan
from training_service.preference import Reference, pair_losses
from training_service.recompute import Recompute
from training_service.team import ALONE, Team, random_name

MICRO_TOKENS = 16_384
"""Padded tokens of one forward pass; a step with more is cut into several."""

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""What AdamW keeps for each parameter."""


class Steps:
    """One run's own loop state: parameters, optimizer, randomness, and how far it is.

    Whoever shares the model between runs sees to it that the right adapter is active at each ``next``.

    Args:
        model: Computes; everything in it but *parameters* stays as it is.
        parameters: What is trained, by name; float32.
        rows: What trains something, in a fixed order: pairs where the plan says so.
        plan: See there.
        pad_id: Fills short rows.
        team: Who takes the steps together; every rank has steps of its own.
        reference: The untouched base, for pairs.

    Raises:
        RequestInvalid: The parameters are not float32, or the model cannot recompute its activations.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        parameters: Mapping[str, torch.nn.Parameter],
        rows: Sequence[Example] | Sequence[Pair],
        plan: Plan,
        *,
        pad_id: int,
        team: Team = ALONE,
        reference: Reference | None = None,
    ) -> None:
        check_masters(parameters)
        self.parameters = dict(parameters)
        self.plan = plan
        self.step = 0
        self.tokens = 0
        self._model = model
        self._rows: Sequence[Example | Pair] = rows
        self._pad_id = pad_id
        self.team = team
        self._reference = reference
        self._batches = Batches(len(rows), plan.batch_rows, seed=plan.seed)
        self._recompute = Recompute(model) if plan.gradient_checkpointing else None
        self._trained = list(self.parameters.values())
        self._device = self._trained[0].device
        self._optimizer = self._new_optimizer(self._trained)
        self.randomness = seeded_randomness(plan.seed + team.rank, self._device)

    def _new_optimizer(self, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.AdamW:
        plan = self.plan
        return torch.optim.AdamW(parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay, fused=True)

    def __iter__(self) -> Iterator[Metrics]:
        """Take one step for each ``next``, up to the last of the plan.

        Raises:
            NanLoss: The loss or gradient is not finite. The step is not taken.
            ExactnessBroken: Some parameter got no gradient in the first step.
        """
        while self.step < self.plan.steps:
            yield self._take_step()

    def rows_of(self, step: int) -> list[Example | Pair]:
        """Return the rows that step *step* takes."""
        return [self._rows[index] for index in self._batches.indices(step)]

    def largest_rows(self) -> list[Example | Pair]:
        """Return the longest rows that one step may come to hold."""
        return sorted(self._rows, key=n_tokens, reverse=True)[: self.plan.batch_rows]

    def n_computed(self, rows: Sequence[Example | Pair]) -> int:
        """Return how many tokens go through the model when *rows* are a step, padding counted."""
        return sum(n_computed(part, packing=self.plan.packing) for part in self._parts(rows))

    def check_model(self) -> None:
        """See that the model can be trained as the plan says, by computing with it; nothing is changed.

        Raises:
            RequestInvalid: Its logits are not as expected, or packed rows would see each other.
        """
        self._model.eval()
        check_head(self._model, examples_of(self._rows[:1])[0])
        if self.plan.packing:
            check_packing(self._model, examples_of(self.largest_rows()), pad_id=self._pad_id, device=self._device)

    def _take_step(self) -> Metrics:
        began_at = time.perf_counter()
        self.team.begin()
        rows = self.rows_of(self.step)
        rate = self.plan.rate(self.step)
        swap_randomness(self.randomness, self._device)
        try:
            loss, norm = self._settle(self._accumulate(rows))
        except BaseException:
            self.drop_gradients()
            raise
        finally:
            self.randomness = swap_randomness(self.randomness, self._device)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self.drop_gradients()
        self.step += 1
        n_read = sum(n_tokens(row) for row in rows)
        self.tokens += n_read
        return Metrics(self.step, loss, rate, n_read / (time.perf_counter() - began_at), norm)

    @contextmanager
    def rehearsal(self) -> Iterator[Callable[[Sequence[Example | Pair]], None]]:
        """Give a function that does with some rows all that a step does, but for the weights.

        AdamW's moments are held within the block, as a run holds them, and it works on the gradients in the weights'
        place. Afterwards gradients and random state are what they were; weights and own moments were never touched.
        """
        moments = [
            {name: one.new_zeros(()) if name == "step" else torch.zeros_like(one) for name in MOMENTS}
            for one in self._trained
        ]
        randomness = swap_randomness(self.randomness, self._device)
        try:
            yield partial(self._rehearse, moments)
        finally:
            self.drop_gradients()
            swap_randomness(randomness, self._device)

    def _rehearse(self, moments: Sequence[dict[str, torch.Tensor]], rows: Sequence[Example | Pair]) -> None:
        self._clip(self._accumulate(rows))
        stand_ins = [None if one.grad is None else torch.nn.Parameter(one.grad) for one in self._trained]
        optimizer = self._new_optimizer([one for one in stand_ins if one is not None])
        for stand_in, kept in zip(stand_ins, moments, strict=True):
            if stand_in is not None:
                stand_in.grad = stand_in.data
                optimizer.state[stand_in] = kept
        optimizer.step()
        self.drop_gradients()

    def _accumulate(self, rows: Sequence[Example | Pair]) -> torch.Tensor:
        """Add the gradient of the mean loss over all trained tokens (or pairs) of *rows* and return that mean."""
        if not self._model.training:
            self._model.train()
        plan = self.plan
        n_all = len(rows) if plan.dpo is not None else sum(row.n_trained for row in examples_of(rows))
        total = torch.zeros((), device=self._device)
        # By row for the whole step: a layer that is computed again behind its pass must attend as it did.
        with self._recompute or nullcontext(), by_row(self._model) if plan.packing else nullcontext():
            for part, weight in self.team.shares(rows, self._parts):
                loss = self._loss_sum(examples_of(part)) * weight
                torch.autograd.backward(loss / n_all)
                total += loss.detach()
        return self.team.total(total) / n_all

    def _parts(self, rows: Sequence[Example | Pair]) -> Iterable[Sequence[Example | Pair]]:
        return micro_batches(rows, self.plan.micro_rows, MICRO_TOKENS, packing=self.plan.packing)

    def _loss_sum(self, rows: Sequence[Example]) -> torch.Tensor:
        """Return the loss of one micro-batch, summed over its trained tokens or pairs."""
        plan = self.plan
        batch = put_together(rows, packing=plan.packing, pad_id=self._pad_id, device=self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=plan.dtype == "bfloat16"):
            if plan.dpo is None:
                return self.team.compute(self._model, loss_sum, batch)
            assert self._reference is not None
            named = {"rows": rows, "dpo": plan.dpo}
            return self.team.compute(self._model, pair_losses, self._reference, batch, **named).sum()

    def drop_gradients(self) -> None:
        """Forget what the rows so far have added."""
        self._optimizer.zero_grad(set_to_none=True)

    def _settle(self, mean: torch.Tensor) -> tuple[float, float]:
        """Check loss and gradients, clip, and return the loss and the norm before clipping; waits but once."""
        step, missing = self.step + 1, [name for name, one in self.parameters.items() if one.grad is None]
        if self.step == 0 and missing:
            n_all = len(self._trained)
            raise ExactnessBroken(
                f"expected a gradient for all {n_all} trained tensors, got {n_all - len(missing)}: "
                f"none for {', '.join(missing[:3])}; freeze what takes no part"
            )
        loss, norm = self._clip(mean)
        if not math.isfinite(loss):
            raise NanLoss(f"step {step}: expected a finite loss, got {loss}; lower the learning rate")
        if not math.isfinite(norm):
            raise NanLoss(f"step {step}: expected a finite gradient, got norm {norm}; lower the rate")
        return loss, norm

    def _clip(self, mean: torch.Tensor) -> tuple[float, float]:
        total = self.team.whole(get_total_norm([one.grad for one in self._trained if one.grad is not None]))
        loss, norm = torch.stack((mean, total)).tolist()
        if self.plan.max_norm:
            clip_grads_with_norm_(self._trained, self.plan.max_norm, total)
        return loss, norm

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
                kept = {
                    one: tensors[f"{one}/{name}"].to(parameter.device, copy=True) for one in MOMENTS if numbers["step"]
                }
                self._optimizer.state[parameter] = {
                    moment: tensor if moment == "step" else self.team.place(tensor, parameter)
                    for moment, tensor in kept.items()
                }
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
