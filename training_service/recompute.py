"""Activations that are computed again in the backward pass instead of kept, for the length of one step.

Non-reentrant, and with the random state of the forward pass, so dropout drops the same again. The switch is in the
shared model, so it is on only while its run's step lasts.
"""

from functools import partial
from types import TracebackType

from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from training_service.errors import RequestInvalid


class Recompute:
    """A switch for the layers of one model; on inside ``with``.

    Raises:
        RequestInvalid: The model has no layers that can be computed again.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._layers = [one for one in model.modules() if isinstance(one, GradientCheckpointingLayer)]
        if not model.supports_gradient_checkpointing or not self._layers:
            raise RequestInvalid(
                f"gradient_checkpointing: expected a base whose layers can be computed again, {type(model).__name__} "
                "has none; leave it out"
            )
        for layer in self._layers:
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)

    def __enter__(self) -> None:
        self._switch(on=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._switch(on=False)

    def _switch(self, *, on: bool) -> None:
        for layer in self._layers:
            layer.gradient_checkpointing = on
