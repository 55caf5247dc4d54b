"""An adapter's part added in place is PEFT's, forward and backward, in every kind of linear layer."""

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear
from torch import nn
from transformers.pytorch_utils import Conv1D

from training_service.fused import Fused
from training_service.lora import AdapterHost
from training_service.model import Base
from training_service.request import Lora

MAKES: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(5, 7, bias=False),
    "with bias": lambda: nn.Linear(5, 7),
    "transposed": lambda: Conv1D(7, 5),
}


def lora_layer(base: nn.Module, *, dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> Linear:
    """Return a LoRA layer of rank 3 over *base*, its second factor not nought."""
    base.requires_grad_(False)
    transposed = isinstance(base, Conv1D)
    config = LoraConfig(r=3, lora_alpha=12, lora_dropout=dropout, fan_in_fan_out=transposed)
    layer = Linear(base, "a", config, r=3, lora_alpha=12, is_target_conv_1d_layer=transposed)
    nn.init.normal_(layer.lora_B["a"].weight)
    return layer.to(dtype)


def answer(layer: Linear, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the layer's output of *x* and the gradients of its weighted sum, the dropout's chances always alike."""
    torch.manual_seed(0)
    x = x.clone().requires_grad_()
    out = layer(x)
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    wanted = (x, layer.lora_A["a"].weight, layer.lora_B["a"].weight)
    return (out.detach(), *torch.autograd.grad((out * weights).sum(), wanted))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("kind", MAKES)
def test_part_added_in_place_is_pefts_forward_and_backward(kind: str, dropout: float) -> None:
    torch.manual_seed(1)
    layer, x = lora_layer(MAKES[kind](), dropout=dropout), torch.randn(2, 4, 5)
    theirs = answer(layer, x)

    layer.lora_variant["a"] = Fused()
    ours = answer(layer, x)

    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_gradients_are_the_functions_own() -> None:
    torch.manual_seed(1)
    layer = lora_layer(nn.Linear(5, 7), dtype=torch.float64)
    layer.lora_variant["a"] = Fused()
    x, down, up = torch.randn(6, 5, dtype=torch.float64), layer.lora_A["a"].weight, layer.lora_B["a"].weight

    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x.requires_grad_(), down, up))


@pytest.mark.parametrize("is_autocast", [True, False])
def test_where_types_are_mixed_the_part_is_pefts_to_the_bit(is_autocast: bool) -> None:
    torch.manual_seed(1)
    layer = lora_layer(nn.Linear(5, 7))
    layer.base_layer.to(torch.bfloat16)
    x = torch.randn(2, 4, 5).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
        theirs = answer(layer, x)
        layer.lora_variant["a"] = Fused()
        ours = answer(layer, x)

    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_plain_adapters_are_added_in_place_and_others_are_not(base: Base) -> None:
    host = AdapterHost(base)
    host.attach("a1", Lora(rank=4), seed=0)
    host.attach("b2", Lora(rank=4, dora=True), seed=0)

    found = {
        name: {
            isinstance(layer.lora_variant[name], Fused) for layer in base.model.modules() if hasattr(layer, "lora_A")
        }
        for name in ("a1", "b2")
    }

    assert found == {"a1": {True}, "b2": {False}}
