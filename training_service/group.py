"""The team of a run over several ranks: ``torch.distributed`` under the loop.

The rows of a step are dealt to the ranks one by one; gradients are summed, not averaged, because the loss is divided
by the target count of the whole step already. DDP: each rank holds the whole model. FSDP2: each holds its share of
every tensor, and rank 0 the whole model for as long as it is evaluated or written.

Between steps the ranks wait for rank 0's *cue*, which says what they do next together. Cues are JSON: nothing is
pickled between ranks.
"""

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch import distributed
from torch._C._distributed_c10d import GradBucket
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from training_service.errors import ExactnessBroken, RequestInvalid
from training_service.event import Json
from training_service.model import Base
from training_service.request import Artifact
from training_service.team import Cut, Row, random_name


class Group:
    """The ranks of one run, after ``init_process_group``.

    Args:
        device: Where this rank computes.
        sharding: ``ddp`` or ``fsdp``.
    """

    def __init__(self, *, device: torch.device, sharding: Literal["ddp", "fsdp"]) -> None:
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self._device = device
        self._sharding = sharding
        self._shared_out: PreTrainedModel | None = None
        self._forward: torch.nn.Module | None = None

    def cue(self, what: str, **arguments: str) -> None:
        """Tell the other ranks what comes next."""
        data = json.dumps({"do": what, **arguments}).encode()
        length = torch.tensor([len(data)])
        distributed.broadcast(length, src=0)
        distributed.broadcast(torch.frombuffer(bytearray(data), dtype=torch.uint8), src=0)

    def await_cue(self) -> Json:
        """Return what rank 0 says comes next; blocks until it does."""
        length = torch.zeros(1, dtype=torch.int64)
        distributed.broadcast(length, src=0)
        data = torch.zeros(int(length.item()), dtype=torch.uint8)
        distributed.broadcast(data, src=0)
        cue: Json = json.loads(data.numpy().tobytes())
        return cue

    def agree(self, what: str) -> None:
        """See that every rank stands where rank 0 does, as *what* spells it.

        Raises:
            ExactnessBroken: One does not, e.g. another host with other files. Raised in every rank.
        """
        own = what.encode()
        first = torch.zeros(4096, dtype=torch.uint8)
        if self.rank == 0:
            first[: len(own)] = torch.frombuffer(bytearray(own), dtype=torch.uint8)
        distributed.broadcast(first, src=0)
        theirs = first.numpy().tobytes().rstrip(b"\0")
        n_others = int(self.total(torch.tensor(theirs != own, dtype=torch.int64)))
        if n_others:
            raise ExactnessBroken(
                f"expected every rank to hold the same base, data and checkpoint, {n_others} of {self.size} do "
                "not: give all hosts the same folders"
            )

    def spread(
        self, base: Base, parameters: Mapping[str, torch.nn.Parameter]
    ) -> tuple[PreTrainedModel, Mapping[str, torch.nn.Parameter]]:
        """Return the model that the steps compute with; under FSDP *base* keeps an empty twin of it.

        Raises:
            RequestInvalid: The base has no layers that could be shared out.
        """
        model, names = base.model, parameters.keys()
        if self._sharding == "ddp":
            # Buckets that are laid out anew after the first step would add in another order after a resumption: hence
            # the search for unused parameters, which keeps them.
            outer = DistributedDataParallel(
                _Forward(model), broadcast_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=True
            )
            outer.register_comm_hook(None, _summed)
            self._forward = outer
            return model, parameters
        layers = layers_of(model)
        empty = {id(one): torch.nn.Parameter(one.data.new_empty(0), requires_grad=False) for one in model.parameters()}
        twin = copy.deepcopy(model, empty)
        mesh = init_device_mesh(self._device.type, (self.size,))
        self._forward = _Forward(model)
        for module in (*layers, self._forward):
            fully_shard(module, mesh=mesh)
            assert isinstance(module, FSDPModule), "fully_shard gives the module a class of its own"
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo cannot multiply while it adds
        base.model, base.weights = twin, dict(twin.named_parameters())
        self._shared_out = model
        return model, {name: one for name, one in model.named_parameters() if name in names}

    def compute(
        self, model: PreTrainedModel, function: Callable[..., torch.Tensor], *arguments: object, **named: object
    ) -> torch.Tensor:
        """Return ``function(model, …)`` for the model that ``spread`` gave."""
        assert self._forward is not None, "spread comes first"
        found: torch.Tensor = self._forward(function, *arguments, **named)
        return found

    def begin(self) -> None:
        """Give the others the cue for the next step."""
        if self.rank == 0:
            self.cue("step")

    def shares(self, rows: Sequence[Row], cut: Cut[Row]) -> Iterator[tuple[Sequence[Row], float]]:
        """Give this rank's parts; the gradients of the last are summed, under DDP with those before."""
        parts = dealt(rows, cut, rank=self.rank, size=self.size)
        for part, weight in parts[:-1]:
            with self._forward.no_sync() if isinstance(self._forward, DistributedDataParallel) else nullcontext():
                yield part, weight
        yield parts[-1]

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of every rank's *value*."""
        found = value.clone()
        distributed.all_reduce(found)
        return found

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return all of *tensor*."""
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def gather(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Return all of the tensor called *name*; the others are given the cue to give their shares."""
        if not isinstance(tensor, DTensor):
            return tensor
        self.cue("gather", name=name)
        return self.whole(tensor)

    def place(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Return this rank's share of *whole*; says nothing to the others."""
        if not isinstance(like, DTensor):
            return whole
        return distribute_tensor(whole.to(self._device), like.device_mesh, like.placements, src_data_rank=None)

    def everyones(self, randomness: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the random state of all ranks; at its cue the others give theirs."""
        if self.rank == 0:
            self.cue("randomness")
        found: dict[str, torch.Tensor] = {}
        for kind, own in sorted(randomness.items()):
            states = [torch.empty_like(own) for _ in range(self.size)]
            distributed.all_gather(states, own)
            found |= {random_name(kind, rank): state for rank, state in enumerate(states)}
        return found

    def recall(self, checkpoint: Artifact) -> None:
        """Let the others go back to *checkpoint*."""
        self.cue("recall", artifact=checkpoint.model_dump_json())

    def peak(self, measure: Callable[[], int]) -> int:
        """Return the sum of what *measure* gives; at its cue the others give theirs."""
        if self.rank == 0:
            self.cue("peak")
        return int(self.total(torch.tensor(measure())))

    def whole_model(self, base: Base) -> AbstractContextManager[object]:
        """Let rank 0's ``base.model`` hold the weights within the block; at its cue the others give theirs."""
        return nullcontext() if self._shared_out is None else self._gathered(base, self._shared_out)

    @contextmanager
    def _gathered(self, base: Base, model: PreTrainedModel) -> Iterator[None]:
        self.cue("model")
        held = dict(base.model.named_parameters())
        for name, share in model.named_parameters():
            held[name].data = self.whole(share.detach())
        try:
            yield
        finally:
            for one in held.values():
                one.data = one.data.new_empty(0)

    def give_model(self) -> None:
        """Give rank 0 this rank's share of every weight."""
        assert self._shared_out is not None, "no cue asks for a model that is not shared out"
        for share in self._shared_out.parameters():
            self.whole(share.detach())


class _Forward(torch.nn.Module):
    """Any function over a model as the forward of one module: there DDP and FSDP begin and end their work."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., torch.Tensor], *arguments: object, **named: object) -> torch.Tensor:
        return function(self.model, *arguments, **named)


def _summed(_: object, bucket: GradBucket) -> Future[torch.Tensor]:
    work = distributed.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None, "asynchronous work is always given back"
    done: Future[torch.Tensor] = work.get_future().then(lambda future: future.value()[0])
    return done


def dealt(rows: Sequence[Row], cut: Cut[Row], *, rank: int, size: int) -> list[tuple[Sequence[Row], float]]:
    """Return the parts that *rank* of *size* computes, each with the weight of its loss. Pure.

    Rows are dealt one by one. Every rank gets as many parts as the one with most, filled up with the first row at
    weight 0; at least one.
    """
    hands = [list(cut(rows[at::size])) if rows[at::size] else [] for at in range(size)]
    n_parts = max(len(hand) for hand in hands)
    filler = next(iter(cut(rows[:1])))
    own = hands[rank]
    return [(part, 1.0) for part in own] + [(filler, 0.0)] * (n_parts - len(own))


def layers_of(model: PreTrainedModel) -> list[torch.nn.Module]:
    """Return the layers of *model* that FSDP gathers one at a time: those that transformers says are not to be split.

    Raises:
        RequestInvalid: It names none.
    """
    names = set(getattr(model, "_no_split_modules", None) or ())
    found = [module for module in model.modules() if type(module).__name__ in names]
    if not found:
        raise RequestInvalid(
            f"expected a base whose layers are known, so that they can be shared out, got {type(model).__name__} "
            "without any; write sharding: ddp"
        )
    return found
