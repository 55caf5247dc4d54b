"""Merges: the adapter as PEFT loads it, the adapter as it is served, and the merged model say the same."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from colors import CPU, NewRequest
from peft import PeftModel
from talk import Talk
from transformers import AutoModelForCausalLM

from training_service.card import CARD
from training_service.errors import ExactnessBroken, RequestInvalid
from training_service.event import Generated, GenerateRequest
from training_service.lora import AdapterHost
from training_service.merge import check_alike, fold, merge
from training_service.merge_order import MergeOrder
from training_service.model import hash_tensors, load_base
from training_service.request import Lora
from training_service.run import Places

KINDS: dict[str, dict[str, object]] = {
    "plain": {"rank": 4},
    "rank-stabilized": {"rank": 8, "alpha": 8, "rslora": True},
    "DoRA": {"rank": 4, "dora": True},
    "rank-stabilized DoRA": {"rank": 8, "alpha": 8, "dora": True, "rslora": True, "dropout": 0.1},
}


def noisy(host: AdapterHost, lora: Lora) -> str:
    """Attach an adapter that changes what the base says."""
    name = "a" + "0" * 32
    for parameter in host.attach(name, lora, seed=1).values():
        with torch.no_grad():
            parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    return name


@pytest.mark.slow
def test_folded_weights_answer_as_base_and_adapter_did(tiny: Path) -> None:
    base = load_base(tiny, name="tiny", device=CPU)
    host = AdapterHost(base)
    name = noisy(host, Lora(rank=4))

    fold(host, name)

    assert hash_tensors(dict(base.model.named_parameters())) != base.sha256
    assert not any("lora" in key for key in base.model.state_dict())


@pytest.mark.parametrize("after", [[1.0, -2.1], [1.0, float("nan")], [float("inf"), -2.0]])
def test_logits_that_are_others_or_none_are_refused(after: list[float]) -> None:
    before = torch.tensor([1.0, -2.0])

    check_alike(before, before + 1e-5)
    with pytest.raises(ExactnessBroken, match="logits"):
        check_alike(before, torch.tensor(after))


def said(talk: Talk, base: str, adapter: str, question: str) -> str:
    """Return what the service writes with *adapter*."""
    chat = ({"role": "user", "content": question},)
    talk.desk.generate(GenerateRequest(f"{adapter}: {question}", base, chat, adapter=adapter, max_tokens=12))
    talk.work()
    text = talk.said[-1]
    assert isinstance(text, Generated), text
    return text.text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's own
@pytest.mark.parametrize("kind", KINDS)
def test_a_result_is_loaded_by_peft_merged_served_and_loaded_by_transformers(
    kind: str, talk: Talk, new_request: NewRequest, places: Places, tmp_path: Path, tiny: Path, models_dir: Path
) -> None:
    """All answer alike: the adapter as PEFT loads it, the merged model as transformers does, and both as served."""
    talk.train(new_request(adapter="colors", lora=KINDS[kind], learning_rate=3e-2, max_steps=12))
    adapter = places.registry.find("colors")
    order = MergeOrder("colors", "whole", models_dir, tmp_path / "state", (tmp_path,))
    merged = merge(order)
    tokens = torch.arange(1, 25).reshape(2, 12)
    questions = ("What color has the sky?", "What color has the snow? Please.")

    base = AutoModelForCausalLM.from_pretrained(tiny, dtype="float32")
    untouched = base(input_ids=tokens).logits
    loaded = PeftModel.from_pretrained(base, adapter.artifact.path)
    tuned = loaded(input_ids=tokens).logits
    whole = AutoModelForCausalLM.from_pretrained(merged.artifact.path, dtype="float32")(input_ids=tokens).logits
    with_adapter, with_model = ([said(talk, str(tiny), name, one) for one in questions] for name in ("colors", "whole"))

    torch.testing.assert_close(whole, tuned, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(whole, untouched, atol=1e-2)
    assert (loaded.peft_config["default"].use_dora, loaded.peft_config["default"].use_rslora) == (
        "DoRA" in kind,
        "rank" in kind,
    )
    assert with_adapter == with_model
    assert any(with_adapter)
    assert (merged.kind, merged.label, merged.provenance.merged_from) == ("model", "whole@1", "colors@1")
    assert "folding the adapter colors@1" in (merged.artifact.path / CARD).read_text()
    with pytest.raises(RequestInvalid, match="nothing to merge"):
        merge(replace(order, adapter="whole"))
