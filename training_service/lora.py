"""Many adapters on one base: attach, switch, read and detach, without any of them touching another.

Names inside the model are hex (``adapters.internal_name``); switching writes the active name on a cached list of
layers, because PEFT's ``set_adapter`` freezes the others (TRAINING.md, traps 3 and 5). Only initialisations that
leave the base alone are done: PiSSA, OLoRA, … rewrite it, for everybody (trap 4).
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from training_service.errors import ArtifactDamaged, RequestInvalid
from training_service.fused import Fused
from training_service.model import Base, check_masters, frozen_names
from training_service.request import Lora

PREFIX = "base_model.model."
"""What PEFT puts before the name of a module in an adapter's file."""

BASE_ALONE = "__base__"
"""PEFT's name for no adapter among those of a pass."""

ALL_LINEAR = "all-linear"
INITS: dict[str, bool | str] = {"default": True, "gaussian": "gaussian", "orthogonal": "orthogonal"}
"""How an adapter may begin, and PEFT's word for it."""

PARTS = {"lora_A": ".weight", "lora_B": ".weight", "lora_magnitude_vector": ""}
"""Kinds of parameters of an adapter, the last with DoRA only, and how their names end in its file."""


class AdapterHost:
    """A resident base with its adapters; at most one is active."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self._peft: PeftModel | None = None
        self._layers: list[tuple[str, LoraLayer]] = []
        self._modules = [name for name, _ in base.model.named_modules()]
        head = base.model.get_output_embeddings()
        self._linear = [
            name
            for name, module in base.model.named_modules()
            if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
        ]

    def attach(self, name: str, lora: Lora, *, seed: int, freeze: Sequence[str] = ()) -> dict[str, torch.nn.Parameter]:
        """Add a fresh adapter and return its parameters, named as in its file.

        The weights follow from *seed* alone; the caller's random state is kept. Nothing is active afterwards.

        Args:
            name: Internal, see ``adapters.internal_name``.
            lora: How it is made.
            seed: Of its first weights.
            freeze: Patterns (``fnmatch``) of names of modules that get no part of the adapter.

        Raises:
            RequestInvalid: A target or pattern names no linear layer of the base, or the adapter would begin in a
                way that changes the base. Nothing is attached.
        """
        _check_init(lora)
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            use_rslora=lora.rslora,
            use_dora=lora.dora,
            init_lora_weights=INITS[lora.init],
            target_modules=self._targets(lora.targets, freeze),
            task_type="CAUSAL_LM",
            inference_mode=False,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            with warnings.catch_warnings():  # PEFT asks transformers for an attribute under its old name
                warnings.simplefilter("ignore", FutureWarning)
                if self._peft is None:
                    self._peft = get_peft_model(self.base.model, config, adapter_name=name)
                else:
                    self._peft.base_model.active_adapter = name  # the one before may be detached
                    self._peft.add_adapter(name, config)
        modules = self.base.model.named_modules()
        self._layers = [(path, module) for path, module in modules if isinstance(module, LoraLayer)]
        self._measure_lengths(name)
        self._fuse(name)
        self.base.model.train(self.base.model.training)  # what is new is as the rest: its flag speaks for all
        self.activate(None)
        self._free_adapters()
        parameters = self.parameters(name)
        check_masters(parameters)
        return parameters

    def _targets(self, targets: Sequence[str], freeze: Sequence[str]) -> list[str]:
        """Return what the adapter's file names as its targets: ends of names where they say it, else whole names."""
        chosen, ends = set(self._linear), {path.rpartition(".")[2] for path in self._linear}
        if ALL_LINEAR not in targets:
            chosen, ends = set(), set(targets)
            for target in targets:
                found = {path for path in self._linear if _ends(path, target)}
                if not found:
                    known = ", ".join(sorted({path.rpartition(".")[2] for path in self._linear}))
                    raise RequestInvalid(
                        f"lora.targets: expected {ALL_LINEAR!r} or ends of names of linear layers other than the "
                        f"head, got {target!r}; this base has: {known}"
                    )
                chosen |= found
        chosen -= frozen_names(sorted(chosen), freeze)
        matched = {path for path in self._modules if any(_ends(path, end) for end in ends)}
        return sorted(ends if matched == chosen else chosen)

    def _measure_lengths(self, name: str) -> None:
        """Let a DoRA adapter begin as no change: PEFT measures the rows of a bfloat16 base in bfloat16."""
        for _, layer in self._layers:
            layer.__dict__.pop("adapter_layer_names", None)  # PEFT makes it longer with each DoRA adapter
            if name not in layer.lora_magnitude_vector:
                continue
            ours, up = layer.lora_magnitude_vector[name], layer.lora_B[name].weight
            weight = layer.get_base_layer().weight.detach().float()
            change = up.detach() @ layer.lora_A[name].weight.detach()
            with torch.no_grad():
                length = ours.get_weight_norm(weight, change, layer.scaling[name])
                ours.weight = torch.nn.Parameter(length)

    def _fuse(self, name: str) -> None:
        """Let a plain adapter be computed by ``Fused``; one of another kind keeps PEFT's own way."""
        for _, layer in self._layers:
            if name in layer.lora_A:
                layer.lora_variant.setdefault(name, Fused())

    def parameters(self, name: str) -> dict[str, torch.nn.Parameter]:
        """Return the parameters of adapter *name*, named as in its file."""
        found: dict[str, torch.nn.Parameter] = {}
        for path, layer in self._layers:
            for kind, ending in PARTS.items():
                parts = getattr(layer, kind)
                if name in parts:
                    found[f"{PREFIX}{path}.{kind}{ending}"] = parts[name].weight
        return found

    def config(self, name: str) -> dict[str, object]:
        """Return what ``adapter_config.json`` says of adapter *name*: plain JSON, loadable by PEFT."""
        assert self._peft is not None
        facts = dict(self._peft.peft_config[name].to_dict())
        facts["inference_mode"] = True
        facts["base_model_name_or_path"] = self.base.name
        return {key: sorted(value) if isinstance(value, set) else value for key, value in facts.items()}

    def load(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put *tensors* into adapter *name*.

        Raises:
            ArtifactDamaged: They are not exactly the adapter's own, by name and shape. Nothing is changed.
        """
        own = self.parameters(name)
        if own.keys() != tensors.keys() or any(own[key].shape != tensors[key].shape for key in own):
            odd = sorted(own.keys() ^ tensors.keys())[:3]
            raise ArtifactDamaged(f"expected exactly the {len(own)} tensors of the adapter, got {len(tensors)}: {odd}")
        with torch.no_grad():
            for key, parameter in own.items():
                parameter.copy_(tensors[key])

    def activate(self, name: str | None) -> None:
        """Let adapter *name* take part in what the model computes from now on; None is the base alone."""
        active = [] if name is None else [name]
        for _, layer in self._layers:
            layer._active_adapter = active

    def can_mix(self, name: str | None) -> bool:
        """Whether adapter *name* may share a pass with others: PEFT computes DoRA for a whole pass alone."""
        return name is None or (self._peft is not None and not self._peft.peft_config[name].use_dora)

    @contextmanager
    def rows(self, names: Sequence[str | None]) -> Iterator[None]:
        """Let row *i* of what the model reads be computed with adapter *names[i]* for the length of a block.

        Afterwards nothing is active. Different adapters must be ones that ``can_mix``, and the model in eval mode.
        """
        if len(set(names)) == 1:
            self.activate(names[0])
            try:
                yield
            finally:
                self.activate(None)
            return
        of_rows = {"adapter_names": [BASE_ALONE if name is None else name for name in names]}

        def tell(_: torch.nn.Module, arguments: tuple[object, ...], named: dict[str, object]) -> object:
            return arguments, named | of_rows

        hooks = [layer.register_forward_pre_hook(tell, with_kwargs=True) for _, layer in self._layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def untouched(self, *, then: str) -> Iterator[PreTrainedModel]:
        """Give the base alone for the length of a block; afterwards adapter *then* is active, where there is one."""
        self.activate(None)
        try:
            yield self.base.model
        finally:
            self.activate(then)

    def merge(self, name: str) -> None:
        """Add adapter *name* to the base's own weights, which must be nobody else's, and take every adapter off.

        Raises:
            RequestInvalid: The sum holds numbers that are not finite. The weights are as before.
        """
        assert self._peft is not None
        for _, layer in self._layers:
            if isinstance(layer.lora_variant.get(name), Fused):  # it computes, PEFT merges
                del layer.lora_variant[name]
        try:
            self._peft.merge_and_unload(safe_merge=True, adapter_names=[name])
        except ValueError as error:
            raise RequestInvalid(f"expected finite merged weights, got: {error}") from error
        self._peft, self._layers = None, []

    def detach(self, name: str) -> None:
        """Remove adapter *name*; nothing is active afterwards and the others stay as they are."""
        self.activate(None)
        for _, layer in self._layers:
            if name in layer.lora_A:
                layer.delete_adapter(name)
        if self._peft is not None:
            self._peft.peft_config.pop(name, None)
        self._free_adapters()

    def _free_adapters(self) -> None:
        for _, layer in self._layers:
            for kind in PARTS:
                for part in getattr(layer, kind).values():
                    part.requires_grad_(True)


def _ends(path: str, end: str) -> bool:
    return path == end or path.endswith(f".{end}")


def _check_init(lora: Lora) -> None:
    if lora.init not in INITS:
        raise RequestInvalid(
            f"lora.init: expected one of {', '.join(INITS)}, got {lora.init!r}: it would change the base, which "
            "other runs share; leave it out"
        )
    if lora.init == "orthogonal" and lora.rank % 2:
        raise RequestInvalid(f"lora.init: expected an even rank with orthogonal, got {lora.rank}; take one more")
