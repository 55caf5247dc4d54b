"""A tiny base, toy data and one worker: what the training tests share."""

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid5

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # read once, when torch is loaded: tests run beside others

import pytest
import torch
import transformers
from colors import COLORS, CPU, SPACE, NewRequest, color_rows, write_rows
from ranks_scene import Scene, new_scene
from talk import Talk
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from training_service.adapters import Registry
from training_service.data import Dataset, Encoder, load_dataset
from training_service.model import Base, load_base
from training_service.request import Artifact, TrainingRequest, parse_request
from training_service.run import Places
from training_service.slots import Slots
from training_service.tiny import make_tiny_gemma


@pytest.fixture(autouse=True, scope="session")
def two_threads() -> None:
    """Exactness holds for one thread count."""
    torch.set_num_threads(2)
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def tiny(models_dir: Path) -> Path:
    """The folder of the smallest Gemma that still learns colors."""
    words = [f"What color has the {thing}? {color}" for thing, color in COLORS.items()]
    return make_tiny_gemma(models_dir, seed=0, corpus=words * 4, hidden=32, layers=2, heads=2, vocabulary=400)


@pytest.fixture(scope="session")
def tiny_llama(models_dir: Path, tiny: Path) -> Path:
    """The folder of a Llama with the same tokenizer: a head of its own, fewer keys than queries."""
    folder = models_dir / "tiny-llama"
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).float()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def base(tiny: Path) -> Base:
    return load_base(tiny, name="tiny", device=CPU)


@pytest.fixture
def encoder(base: Base) -> Encoder:
    return Encoder(base.tokenizer, stop_ids=base.stop_ids, max_tokens=base.max_tokens)


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "colors.jsonl", color_rows())


@pytest.fixture
def dataset(data_file: Path, encoder: Encoder) -> Dataset:
    return load_dataset(data_file, encoder)


@pytest.fixture
def slots(models_dir: Path, tmp_path: Path) -> Slots:
    return Slots(models_dir=models_dir, allow_hub=False, roots=(tmp_path,), device=CPU)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    state = tmp_path / "state"
    return Places(state / "runs", state / "artifacts", Registry(state / "adapters"), (tmp_path, state))


@pytest.fixture
def talk(slots: Slots, places: Places) -> Talk:
    """A desk that nobody has ordered anything of yet."""
    return Talk(slots, places)


@pytest.fixture
def new_request(tiny: Path, data_file: Path) -> NewRequest:
    """Return a maker of small orders; each *name* is a task of its own."""

    def make(name: str = "one", **changes: object) -> TrainingRequest:
        body: dict[str, object] = {
            "task_id": str(uuid5(SPACE, name)),
            "base": str(tiny),
            "method": "lora",
            "dataset": Artifact.from_file(data_file).model_dump(),
            "max_steps": 6,
            "batch_rows": 4,
            "learning_rate": 1e-2,
        }
        return parse_request(body | changes)

    return make


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, models_dir: Path, tiny: Path) -> Iterator[Scene]:
    """A desk whose ranks are real processes."""
    made = new_scene(tmp_path_factory.mktemp("ranks"), models_dir, tiny)
    yield made
    made.desk.close()


@pytest.fixture
def kept_randomness() -> Iterator[None]:
    """Leave torch's random state as it was."""
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)
