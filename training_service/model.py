"""Base models: from a name to a folder, from a folder to weights with tokenizer and hash.

Code that comes with a model is never run (``trust_remote_code`` stays off).
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import file_digest, sha256
from pathlib import Path

import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from training_service.artifact import MANIFEST, MODEL_TYPE, verify
from training_service.errors import NoSuchBase, RequestInvalid
from training_service.request import Artifact
from training_service.tiny import make_tiny_gemma

TINY = "tiny-gemma3"
TINY_SEED = 0
HUB_TIMEOUT = 5.0
"""Seconds to find out whether the hub answers at all; a name is then refused instead of waited for."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
MAX_HUB_NAME = 200
"""Characters; the hub itself takes fewer."""

HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.jinja", "tokenizer*"]
TURN_ENDS = ("<end_of_turn>", "<|im_end|>", "<|eot_id|>", "<|end|>")
"""Tokens that end a turn in the common templates, should the generation config not name them."""

TEXT_FILES = frozenset({".json", ".jinja", ".model", ".txt"})
"""How the names of the files end that say how a row becomes tokens."""

LONGEST = 8192
"""Tokens of a row, where the model itself would take more."""


@dataclass(slots=True, eq=False)
class Base:
    """A base model in memory; its weights are nobody's to change but the owner's of a private copy.

    Attributes:
        weights: By name; what the hashes are made of.
        sha256: Of the weights as float32, whatever they are kept in here: which base this is. An adapter fits every
            copy of its base.
        resident_sha256: Of the weights as they are in memory: whether they are still what was loaded.
        texts_sha256: Of the files beside the weights, the tokenizer's among them: equal ones make equal tokens.
    """

    name: str
    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    weights: dict[str, torch.Tensor]
    sha256: str
    resident_sha256: str
    stop_ids: frozenset[int]
    max_tokens: int
    texts_sha256: str

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(iter(self.weights.values())).device

    @property
    def is_unchanged(self) -> bool:
        """Whether the weights are what was loaded; reads all of them."""
        return hash_tensors(self.weights) == self.resident_sha256

    @property
    def pad_id(self) -> int:
        """The token that fills short rows; always masked, so any will do where the model has none."""
        pad = self.tokenizer.pad_token_id
        return 0 if pad is None else int(pad)


def resolve_base(name: str, *, models_dir: Path, allow_hub: bool, roots: Sequence[Path] = ()) -> Path:
    """Return the folder of the base model *name*.

    Args:
        name: ``tiny-gemma3`` (made on first use), a folder, the name of a folder in *models_dir*, or a hub name.
        models_dir: Where models are kept.
        allow_hub: Whether what is not here may be fetched. Never waits longer than ``HUB_TIMEOUT`` for an answer.
        roots: Folders that a local model may lie under besides *models_dir*.

    Raises:
        NoSuchBase: Nothing of that name; the text says what was tried.
    """
    if name == TINY:
        return make_tiny_gemma(models_dir, seed=TINY_SEED)
    if Path(name).is_absolute() or name.startswith((".", "~")):
        return _local_folder(Path(name).expanduser(), (models_dir, *roots))
    if len(name) > MAX_HUB_NAME or not NAME.fullmatch(name):
        raise NoSuchBase(f"expected {TINY!r}, a folder or a hub name such as 'google/gemma-3-1b-it', got {name[:80]!r}")
    for folder in (models_dir / name, *(root / name for root in roots)):
        if _holds_model(folder):
            return _local_folder(folder, (models_dir, *roots))
    return _from_hub(name, models_dir, allow_hub=allow_hub)


def _local_folder(folder: Path, roots: Sequence[Path]) -> Path:
    if not _holds_model(folder):
        raise NoSuchBase(f"expected a folder with config.json, got {str(folder)[:200]!r}: no such base model there")
    real = folder.resolve()
    if not any(real.is_relative_to(root.resolve()) for root in roots):
        under = ", ".join(str(root) for root in roots)
        raise NoSuchBase(f"expected a base model under one of: {under}; got {str(folder)!r}")
    if (real / MANIFEST).is_file():  # the result of a run
        verify(Artifact(uri=real.as_uri(), sha256=real.name, size=0, media_type=MODEL_TYPE))
    return real


def _holds_model(folder: Path) -> bool:
    try:
        return (folder / "config.json").is_file()
    except OSError:  # a name that is too long is one of nothing
        return False


def _from_hub(name: str, models_dir: Path, *, allow_hub: bool) -> Path:
    tried = [f"folder {models_dir / name}", "the local hub cache"]
    try:
        return Path(snapshot_download(name, local_files_only=True, allow_patterns=HUB_FILES))
    except (LocalEntryNotFoundError, HFValidationError):
        pass
    why = "fetching is not allowed here"
    if allow_hub:
        tried.append("the hub")
        try:
            HfApi().model_info(name, timeout=HUB_TIMEOUT)
            return Path(snapshot_download(name, allow_patterns=HUB_FILES, etag_timeout=HUB_TIMEOUT))
        except OfflineModeIsEnabled:
            why = "the hub is switched off (HF_HUB_OFFLINE)"
        except HfHubHTTPError as error:
            code = error.response.status_code if error.response is not None else "no answer"
            why = f"the hub said {code}; a gated model needs HF_TOKEN"
        except Exception as error:  # whatever the HTTP library of the day raises where there is no network
            why = f"the hub does not answer ({type(error).__name__})"
    raise NoSuchBase(f"no base model {name!r}: tried {', '.join(tried)}; {why}")


def load_base(folder: Path, *, name: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Base:
    """Return the model in *folder* in *dtype*, frozen, with its tokenizer.

    The checkpoint's own dtype is not kept: plain AdamW on bf16 at 3e-5 leaves 69 % of the weights where they
    are (TRAINING.md, trap 1). In another dtype than float32 the weights are loaded as float32, hashed and then
    made smaller one by one, so that one base has one hash.

    Raises:
        NoSuchBase: The folder holds no causal language model that can be loaded without its own code.
    """
    texts = hash_texts(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise NoSuchBase(f"{folder}: expected a causal language model and its tokenizer, got: {error}") from error
    model.to(device).eval().requires_grad_(False)
    weights = dict(model.named_parameters())
    identity = resident = hash_tensors(weights)
    if dtype != torch.float32:  # buffers stay: rotary frequencies in bfloat16 would turn far positions wrongly
        for one in weights.values():
            one.data = one.data.to(dtype)
        resident = hash_tensors(weights)
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", LONGEST)
    return Base(
        name=name,
        folder=folder,
        model=model,
        tokenizer=tokenizer,
        weights=weights,
        sha256=identity,
        resident_sha256=resident,
        stop_ids=_stop_ids(model, tokenizer),
        max_tokens=min(int(longest), LONGEST),
        texts_sha256=texts,
    )


def _stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    given = getattr(model.generation_config, "eos_token_id", None)
    stops = set(given if isinstance(given, list) else [given]) | {tokenizer.eos_token_id}
    vocabulary = tokenizer.get_vocab()
    stops |= {vocabulary.get(token) for token in TURN_ENDS}
    return frozenset(int(token) for token in stops if token is not None)


def hash_texts(folder: Path) -> str:
    """Return one SHA-256 over names and content of the ``TEXT_FILES`` in *folder*."""
    digest = sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in TEXT_FILES and path.is_file():
            with path.open("rb") as file:
                content = file_digest(file, "sha256").digest()
            digest.update(f"{path.relative_to(folder).as_posix()}\0".encode() + content)
    return digest.hexdigest()


def hash_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return one SHA-256 over names, types, shapes and bytes; the order of the mapping does not matter."""
    digest = sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        for piece in tensor_bytes(tensor):
            digest.update(piece)
    return digest.hexdigest()


def tensor_bytes(tensor: torch.Tensor) -> Iterator[memoryview]:
    """Give the bytes of *tensor* in row order, in pieces; copies only what is not in main memory already."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
    if flat.numel():
        yield flat.numpy().data


def free_all(base: Base, *, freeze: Sequence[str] = ()) -> dict[str, torch.nn.Parameter]:
    """Make the parameters of a private copy trainable, but for the frozen ones, and return them by name.

    Args:
        base: A private copy.
        freeze: Patterns (``fnmatch``) of names of parameters that stay as they are.

    Raises:
        RequestInvalid: A weight is not float32, a pattern matches none, or none is left to train.
    """
    base.model.requires_grad_(True)
    parameters = dict(base.model.named_parameters())
    for name in frozen_names(parameters, freeze):
        parameters.pop(name).requires_grad_(False)
    check_masters(parameters)
    return parameters


def frozen_names(names: Iterable[str], patterns: Sequence[str]) -> set[str]:
    """Return which of *names* the *patterns* match.

    Raises:
        RequestInvalid: A pattern matches none, or all are matched, so that nothing would be trained.
    """
    known, frozen = list(names), set[str]()
    for pattern in patterns:
        found = {name for name in known if fnmatchcase(name, pattern)}
        if not found:
            some = ", ".join(known[:2])
            raise RequestInvalid(f"freeze: expected patterns of names such as {some}; {pattern!r} matches none")
        frozen |= found
    if patterns and len(frozen) == len(known):
        raise RequestInvalid(f"freeze: expected something left to train, the patterns match all {len(known)} names")
    return frozen


def check_masters(parameters: Mapping[str, torch.Tensor]) -> None:
    """See that plain AdamW may work on *parameters*.

    Raises:
        RequestInvalid: One is not float32, so most of its updates would be rounded away.
    """
    for name, parameter in parameters.items():
        if parameter.dtype != torch.float32:
            raise RequestInvalid(f"expected float32 weights under AdamW, got {parameter.dtype} for {name}")


def pick_device() -> torch.device:
    """Return the accelerator where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
