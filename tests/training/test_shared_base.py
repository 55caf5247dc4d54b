"""Many adapters on one base: whoever is beside a run, it is as if alone; and the base never changes."""

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from talk import Talk
from transformers import AutoModelForCausalLM

from training_service.adapters import internal_name
from training_service.artifact import verify
from training_service.bench import Bench
from training_service.data import Dataset
from training_service.errors import ArtifactDamaged, NoMemory, RequestInvalid
from training_service.event import (
    Canceled,
    Checkpoint,
    Failed,
    Generated,
    GenerateRequest,
    Paused,
    Progress,
    Queued,
    Refused,
    Started,
)
from training_service.lora import AdapterHost
from training_service.model import Base, hash_tensors, load_base
from training_service.plan import Plan
from training_service.quote import check_memory, quote_of, rehearse
from training_service.request import Lora, TrainingRequest
from training_service.result import attach_adapter
from training_service.run import Places
from training_service.slots import Slots
from training_service.steps import Steps
from training_service.tensors import read_tensors

CPU = torch.device("cpu")
NewRequest = Callable[..., TrainingRequest]
ORDERS = {"small": Lora(rank=2, alpha=4, dropout=0.3), "large": Lora(rank=8, alpha=8, dropout=0.1)}


@pytest.mark.slow
def test_interleaved_runs_of_different_ranks_equal_each_alone(tiny: Path, dataset: Dataset) -> None:
    plan = Plan(steps=8, batch_rows=4, learning_rate=1e-2, weight_decay=0.0, seed=1)

    def on(host: AdapterHost, name: str) -> Steps:
        parameters = host.attach(internal_name(name), ORDERS[name], seed=plan.seed)
        return Steps(host.base.model, parameters, dataset.usable, plan, pad_id=host.base.pad_id)

    alone = {}
    for name in ORDERS:
        host = AdapterHost(load_base(tiny, name="tiny", device=CPU))
        steps = on(host, name)
        host.activate(internal_name(name))
        alone[name] = ([metrics.loss for metrics in steps], hash_tensors(steps.parameters))

    host = AdapterHost(load_base(tiny, name="tiny", device=CPU))
    both = {name: on(host, name) for name in ORDERS}
    losses: dict[str, list[float]] = {name: [] for name in ORDERS}
    turns = {name: iter(steps) for name, steps in both.items()}
    for _ in range(plan.steps):
        for name, turn in turns.items():
            host.activate(internal_name(name))
            losses[name].append(next(turn).loss)

    assert {name: (losses[name], hash_tensors(both[name].parameters)) for name in ORDERS} == alone
    assert hash_tensors(host.base.weights) == host.base.sha256


@pytest.mark.parametrize("name", ["mlp", "model", "weight", "self_attn", "layers", "lora_A", "../x", "/abs", "für"])
def test_adapter_called_like_a_part_of_the_model_harms_nobody(name: str, base: Base) -> None:
    host = AdapterHost(base)
    victim = host.attach(internal_name("victim"), Lora(rank=2), seed=0)
    before = hash_tensors(victim)

    host.attach(internal_name(name), Lora(rank=3), seed=1)
    own = host.parameters(internal_name(name))

    assert own.keys() == victim.keys()
    assert hash_tensors(host.parameters(internal_name("victim"))) == before
    host.detach(internal_name(name))
    assert hash_tensors(host.parameters(internal_name("victim"))) == before
    assert all(one.requires_grad for one in victim.values())
    assert hash_tensors(base.weights) == base.sha256


def test_new_adapter_changes_no_answer_before_its_first_step(base: Base) -> None:
    tokens = torch.tensor([[2, 7, 8, 9]])
    with torch.no_grad():
        before = base.model(input_ids=tokens).logits
        host = AdapterHost(base)
        host.attach("a1", Lora(rank=4), seed=0)
        host.activate("a1")
        active = base.model(input_ids=tokens).logits
        host.detach("a1")
        after = base.model(input_ids=tokens).logits

    assert torch.equal(before, active)
    assert torch.equal(before, after)


def test_target_that_names_no_layer_is_refused(base: Base) -> None:
    with pytest.raises(RequestInvalid, match=r"lora\.targets"):
        AdapterHost(base).attach("a1", Lora(rank=4, targets=("nothing_here",)), seed=0)


def test_tensors_that_are_not_the_adapters_own_are_refused(base: Base) -> None:
    host = AdapterHost(base)
    own = host.attach("a1", Lora(rank=4), seed=0)
    before = hash_tensors(own)
    fewer = dict(list(own.items())[1:])

    with pytest.raises(ArtifactDamaged, match="expected exactly"):
        host.load("a1", fewer)

    assert hash_tensors(own) == before


def test_two_names_of_one_base_share_its_slot(tiny: Path, tmp_path: Path, models_dir: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in tiny.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    slots = Slots(models_dir=models_dir, allow_hub=False, roots=(tmp_path,), device=CPU)

    assert slots.shared(str(tiny)) is slots.shared(str(copy))
    assert slots.private(str(tiny)).model is not slots.shared(str(tiny)).base.model


@pytest.mark.slow
def test_quote_leaves_everything_as_it_was(new_request: NewRequest, slots: Slots, tmp_path: Path) -> None:
    bench = Bench(new_request(lora={"rank": 4, "dropout": 0.2}), slots, (tmp_path,), use="quote")
    bench.activate()
    weights, randomness = hash_tensors(bench.steps.parameters), torch.get_rng_state()
    own_randomness = bench.steps.randomness["cpu"].clone()

    quote = quote_of(rehearse(bench, tmp_path / "artifacts"), bench)

    assert quote.steps == 6
    assert quote.seconds > 0
    assert quote.peak_memory_bytes > 100e6
    assert hash_tensors(bench.steps.parameters) == weights
    assert hash_tensors(bench.base.weights) == bench.base.sha256
    assert all(one.grad is None for one in bench.steps.parameters.values())
    assert torch.equal(torch.get_rng_state(), randomness)
    assert torch.equal(bench.steps.randomness["cpu"], own_randomness)
    assert bench.steps.step == 0
    bench.close()
    assert bench.slot is not None
    assert not bench.slot.users
    assert not bench.slot.host.parameters(bench.name)


def test_quote_above_the_machines_memory_is_refused(new_request: NewRequest, slots: Slots, tmp_path: Path) -> None:
    bench = Bench(new_request(), slots, (tmp_path,), use="quote")
    bench.activate()
    quote = quote_of(rehearse(bench, tmp_path / "artifacts"), bench)
    bench.close()
    huge = type(quote)(10**16, 1, quote.steps, quote.seconds, quote.device)

    check_memory(quote, CPU)
    with pytest.raises(NoMemory, match="take fewer rows"):
        check_memory(huge, CPU)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT asks transformers for an attribute under its old name
def test_run_goes_from_quote_to_a_registered_adapter_that_peft_loads(
    new_request: NewRequest, talk: Talk, tiny: Path, places: Places
) -> None:
    request = new_request(adapter="colors", checkpoint_every=3)
    prepared = talk.ready(request)

    assert talk.desk.runs.start(request.task_id) == [Queued(request.task_id, 0)]
    talk.work()

    assert prepared.quote.steps == 6
    assert [type(one).__name__ for one in talk.said] == (
        ["Started"] + 2 * (3 * ["Progress"] + ["Checkpoint"]) + ["Trained"]
    )
    trained = talk.trained(request)
    assert trained.adapter == "colors@1"
    found = places.registry.find("colors")
    assert found.provenance.dataset_sha256 == request.dataset.sha256
    assert found.provenance.request["seed"] == 0
    folder = verify(trained.artifact)
    plain = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(plain, str(folder))
    own = read_tensors(folder / "adapter_model.safetensors")
    state = {name.replace(".default", ""): one for name, one in loaded.state_dict().items() if "lora_" in name}
    assert hash_tensors(state) == hash_tensors(own)
    assert talk.desk.runs.start(request.task_id) == [trained]


@pytest.mark.slow
def test_full_run_leaves_the_resident_base_alone_and_its_model_is_a_base(
    new_request: NewRequest, talk: Talk, slots: Slots, tiny: Path
) -> None:
    resident = slots.shared(str(tiny)).base
    request = new_request(method="full", max_steps=40, batch_rows=8, learning_rate=5e-3)
    talk.ready(request)
    talk.desk.runs.start(request.task_id)
    talk.work()

    assert hash_tensors(resident.weights) == resident.sha256
    chat = ({"role": "user", "content": "What color has the grass?"},)
    talk.desk.generate(GenerateRequest("g", str(talk.trained(request).artifact.path), chat, max_tokens=12))
    talk.work()
    said = talk.said[-1]
    assert isinstance(said, Generated)
    assert said.text.startswith("green")
    assert said.finish_reason == "stop"


@pytest.mark.slow
def test_paused_run_resumed_beside_another_ends_with_the_weights_of_one_alone(
    new_request: NewRequest, slots: Slots, places: Places, tmp_path: Path
) -> None:
    order = {"lora": {"rank": 4, "dropout": 0.2}, "max_steps": 8, "seed": 3}
    alone, paused, beside = new_request("alone", **order), new_request("paused", **order), new_request("beside")
    talk = Talk(slots, places)
    talk.ready(alone)
    talk.desk.runs.start(alone.task_id)
    talk.work()

    for request in (paused, beside):
        talk.ready(request)
        talk.desk.runs.start(request.task_id)
    talk.work(Started, 3)
    for _ in range(6):
        talk.desk.work()
    first = talk.desk.runs.pause(paused.task_id, by_owner=False)
    again = talk.desk.runs.pause(paused.task_id, by_owner=False)
    other = Talk(Slots(models_dir=tmp_path, allow_hub=False, roots=(tmp_path, Path(paused.base)), device=CPU), places)
    other.desk.runs.start(paused.task_id)
    other.work()

    assert isinstance(first, Paused)
    assert again.checkpoint == first.checkpoint
    (started,) = other.of(Started)
    assert isinstance(started, Started)
    assert started.resumed_from_step
    assert other.trained(paused).artifact.sha256 == talk.trained(alone).artifact.sha256


@pytest.mark.slow
def test_canceled_run_keeps_its_last_checkpoint_and_frees_its_slot(
    new_request: NewRequest, talk: Talk, slots: Slots, tiny: Path
) -> None:
    request = new_request()
    talk.ready(request)
    talk.desk.runs.start(request.task_id)
    talk.work(until=Started)
    talk.desk.work()

    canceled = talk.desk.runs.cancel(request.task_id)

    assert canceled.last_checkpoint is not None
    verify(canceled.last_checkpoint)
    assert talk.desk.is_idle
    assert not slots.shared(str(tiny)).users
    assert talk.desk.runs.cancel(request.task_id) == canceled
    assert talk.desk.runs.start(request.task_id) == [canceled]
    assert talk.of(Canceled) == [canceled]
    with pytest.raises(RequestInvalid, match="canceled"):
        talk.desk.runs.pause(request.task_id, by_owner=False)


def test_same_task_id_for_another_order_is_refused(new_request: NewRequest, talk: Talk) -> None:
    request = new_request()
    first = talk.ready(request)

    assert talk.desk.prepare(request, None) == first
    other = talk.desk.prepare(new_request(seed=9), None)
    assert isinstance(other, Refused)
    assert other.code == "bad-request"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"base": "no/such-model"}, "no-such-base"),
        ({"base": "/etc"}, "no-such-base"),
        ({"base": "../" * 3}, "no-such-base"),
        ({"lora": {"targets": ["nothing"]}}, "bad-request"),
        ({"dataset": {"uri": "file:///etc/hostname", "sha256": "0" * 64, "size": 1, "media_type": "x"}}, "bad-data"),
        ({"dataset": {"uri": "file:///nowhere", "sha256": "0" * 64, "size": 1, "media_type": "x"}}, "bad-data"),
    ],
)
def test_order_that_cannot_be_carried_out_is_refused_before_anything_starts(
    changes: dict[str, object], code: str, new_request: NewRequest, talk: Talk, places: Places
) -> None:
    answer = talk.desk.prepare(new_request(**changes), None)

    assert isinstance(answer, Refused)
    assert answer.code == code
    assert talk.desk.is_idle
    assert not places.runs.exists()


@pytest.mark.slow
def test_run_that_fails_says_where_it_can_go_on_and_others_are_untouched(
    new_request: NewRequest, talk: Talk, slots: Slots, tiny: Path
) -> None:
    broken, well, alone = new_request("broken", checkpoint_every=1, seed=5), new_request("well"), new_request("alone")
    talk.ready(alone)
    talk.desk.runs.start(alone.task_id)
    talk.work()
    for request in (broken, well):
        talk.ready(request)
        talk.desk.runs.start(request.task_id)
    talk.work(until=Checkpoint, count=2)
    host = slots.shared(str(tiny)).host
    with torch.no_grad():
        for one in host.parameters(internal_name("run", broken.task_id)).values():
            one.fill_(float("nan"))
    talk.work()

    (failed,) = talk.of(Failed)
    assert isinstance(failed, Failed)
    assert (failed.task_id, failed.code) == (broken.task_id, "nan-loss")
    assert failed.last_checkpoint is not None
    assert talk.trained(well).artifact.sha256 == talk.trained(alone).artifact.sha256


@pytest.mark.slow
def test_texts_and_runs_take_turns_and_neither_changes_the_other(
    new_request: NewRequest, slots: Slots, places: Places, tiny: Path
) -> None:
    chat = ({"role": "user", "content": "What color has the sky?"},)
    texts = [GenerateRequest(f"g{seed}", str(tiny), chat, max_tokens=8, temperature=6.0, seed=seed) for seed in (3, 4)]
    talk = Talk(slots, places, clock=count().__next__)  # every slice and every pass takes a second
    alone = new_request("alone", max_steps=20)
    talk.ready(alone)
    talk.desk.runs.start(alone.task_id)
    talk.work()
    for text in texts:
        talk.desk.generate(text)
        talk.work()
    expected = talk.of(Generated)
    request = new_request("beside", max_steps=20)
    talk.ready(request)
    talk.desk.runs.start(request.task_id)
    talk.work(until=Started, count=2)
    begun = len(talk.said)

    for text in texts:
        talk.desk.generate(text)
    talk.work()

    beside = talk.said[begun:]
    written = [place for place, one in enumerate(beside) if isinstance(one, Generated)]
    steps = [place for place, one in enumerate(beside) if isinstance(one, Progress)]
    assert [beside[place] for place in written] == expected
    # Two prompts and seven passes for both texts; not every slice of a run is a step.
    assert 7 <= len([place for place in steps if place < written[-1]]) <= 9
    assert talk.trained(request).artifact.sha256 == talk.trained(alone).artifact.sha256


@pytest.mark.slow
def test_adapter_on_another_base_is_refused(new_request: NewRequest, talk: Talk, tiny: Path, tmp_path: Path) -> None:
    request = new_request(adapter="colors", max_steps=2)
    talk.ready(request)
    talk.desk.runs.start(request.task_id)
    talk.work()
    full = new_request("full", method="full", max_steps=1)
    talk.ready(full)
    talk.desk.runs.start(full.task_id)
    talk.work()
    other, chat = str(talk.trained(full).artifact.path), ({"role": "user", "content": "What?"},)

    with pytest.raises(RequestInvalid, match="other weights"):
        talk.desk.generate(GenerateRequest("g", other, chat, adapter="colors"))

    talk.desk.generate(GenerateRequest("h", str(tiny), chat, adapter="colors@1", max_tokens=3))
    talk.work()
    assert isinstance(talk.said[-1], Generated)
    assert talk.said[-1].adapter == "colors@1"


def test_adapter_file_of_another_shape_attaches_nothing(
    new_request: NewRequest, talk: Talk, slots: Slots, tiny: Path, places: Places
) -> None:
    request = new_request(max_steps=1, adapter="colors")
    talk.ready(request)
    talk.desk.runs.start(request.task_id)
    talk.work()
    artifact = places.registry.find("colors").artifact
    (artifact.path / "adapter_config.json").write_text("{}")
    host = slots.shared(str(tiny)).host

    with pytest.raises(ArtifactDamaged):
        attach_adapter(host, "a9", artifact)

    assert not host.parameters("a9")
