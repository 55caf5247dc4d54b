"""Texts side by side on models of other kinds: other positions, other windows, other states."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    Lfm2Config,
    Llama4TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
)
from writing import CHAT, HOT, LONG, Writing, add_adapter, close_to

from training_service.run import Places
from training_service.slots import Slots

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
KEYS = {"num_key_value_heads": 2, "max_position_embeddings": 512}
KINDS: dict[str, tuple[PreTrainedConfig, int]] = {  # with the most texts that share a pass
    "fewer keys than queries": (LlamaConfig(**SHAPE, **KEYS), 3),
    "a window in every layer": (MistralConfig(**SHAPE, **KEYS, sliding_window=12), 3),
    "positions that are learned": (GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=512), 3),
    "a state that is no keys": (Lfm2Config(**SHAPE, **KEYS, layer_types=["conv", "full_attention"]), 1),
    "chunks of the text": (
        Llama4TextConfig(
            **SHAPE, **KEYS, intermediate_size_mlp=64, head_dim=8, attention_chunk_size=16, num_local_experts=2,
            layer_types=["chunked_attention", "full_attention"], moe_layers=[],
        ), 1,
    ),
}  # fmt: skip


def make(config: PreTrainedConfig, tiny: Path, folder: Path) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    config.vocab_size = len(tokenizer)
    for name in ("pad", "bos", "eos"):
        setattr(config, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:fan_in_fan_out")  # PEFT sees by itself how GPT-2 keeps its weights, and says so
@pytest.mark.parametrize("kind", KINDS)
def test_texts_beside_others_equal_each_alone(
    kind: str, slots: Slots, places: Places, tiny: Path, tmp_path: Path
) -> None:
    config, n_sharing = KINDS[kind]
    base = make(config, tiny, tmp_path / "base")
    adapter = add_adapter(places, base, "colors")
    orders: list[dict[str, object]] = [
        {"messages": chat, "adapter": name, "temperature": HOT, "seed": seed, "max_tokens": 16, "logprobs": 2}
        for seed, (chat, name) in enumerate(((CHAT, None), (LONG, adapter), (CHAT, adapter)))
    ]
    alone = []
    for order in orders:
        one = Writing(slots, places)
        one.begin(base, **order)
        alone.append(one.work())
    n_rows: list[int] = []
    slots.shared(str(base)).base.model.register_forward_pre_hook(
        lambda _, __, named: n_rows.append(len(named["input_ids"])), with_kwargs=True
    )

    together = Writing(slots, places)
    for row, order in enumerate(orders):
        together.begin(base, str(row), **order)
    together.work()

    assert together.failures() == []
    assert max(n_rows) == n_sharing
    for row, one in enumerate(alone):
        assert together.end(str(row)).text == one.end().text
        assert close_to(together.logprobs(str(row)), one.logprobs())
