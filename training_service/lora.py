"""Many adapters on one base: attach, switch, read and detach, without any of them touching another.

Names inside the model are hex (``adapters.internal_name``); switching writes the active name on a cached list of
layers, because PEFT's ``set_adapter`` freezes the others (TRAINING.md, traps 3 and 5). Only the plain
initialisation is used: those that rewrite the base (PiSSA, OLoRA, …) would change it for everybody (trap 4).
"""

import warnings
from collections.abc import Mapping

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer

from training_service.errors import ArtifactDamaged, RequestInvalid
from training_service.model import Base, check_masters
from training_service.request import Lora

PREFIX = "base_model.model."
"""What PEFT puts before the name of a module in an adapter's file."""

ALL_LINEAR = "all-linear"


class AdapterHost:
    """A resident base with its adapters; at most one is active."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self._peft: PeftModel | None = None
        self._layers: list[tuple[str, LoraLayer]] = []

    def attach(self, name: str, lora: Lora, *, seed: int) -> dict[str, torch.nn.Parameter]:
        """Add a fresh adapter and return its parameters, named as in its file.

        The weights follow from *seed* alone; the caller's random state is kept. Nothing is active afterwards.

        Raises:
            RequestInvalid: A target names no linear layer of the base.
        """
        targets: str | list[str] = ALL_LINEAR if ALL_LINEAR in lora.targets else list(lora.targets)
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=targets,
            task_type="CAUSAL_LM",
            inference_mode=False,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                with warnings.catch_warnings():  # PEFT asks transformers for an attribute under its old name
                    warnings.simplefilter("ignore", FutureWarning)
                    if self._peft is None:
                        self._peft = get_peft_model(self.base.model, config, adapter_name=name)
                    else:
                        self._peft.base_model.active_adapter = name  # the one before may be detached
                        self._peft.add_adapter(name, config)
            except ValueError as error:
                raise RequestInvalid(f"lora.targets: expected linear layers of the base, got: {error}") from error
        modules = self.base.model.named_modules()
        self._layers = [(path, module) for path, module in modules if isinstance(module, LoraLayer)]
        self.activate(None)
        self._free_adapters()
        parameters = self.parameters(name)
        check_masters(parameters)
        return parameters

    def parameters(self, name: str) -> dict[str, torch.nn.Parameter]:
        """Return the parameters of adapter *name*, named as in its file."""
        found: dict[str, torch.nn.Parameter] = {}
        for path, layer in self._layers:
            for kind in ("lora_A", "lora_B"):
                parts = getattr(layer, kind)
                if name in parts:
                    found[f"{PREFIX}{path}.{kind}.weight"] = parts[name].weight
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

    def merge(self, name: str) -> None:
        """Add adapter *name* to the base's own weights, which must be nobody else's, and take every adapter off.

        Raises:
            RequestInvalid: The sum holds numbers that are not finite. The weights are as before.
        """
        assert self._peft is not None
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
            for kind in ("lora_A", "lora_B"):
                for part in getattr(layer, kind).values():
                    part.requires_grad_(True)
