"""Where runs and texts compute: one resident base for each (hash, dtype).

LoRA runs and texts share a resident base and take turns at step ends; a full run gets a copy of the weights for
itself, so that the resident base never changes.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from training_service.encodings import Encodings
from training_service.lora import AdapterHost
from training_service.model import Base, load_base, resolve_base

IDLE_BASES = 2
"""Resident bases that are kept though nothing uses them."""

SERVED_ADAPTERS = 16
"""Adapters for texts that are kept on one base though nothing uses them."""


@dataclass(slots=True, eq=False)
class Slot:
    """One base in memory with its adapters.

    Attributes:
        users: Names of the runs and texts on it.
        served: Internal names of the adapters that are kept for texts, the most recently used last.
        is_warm: Whether a step was rehearsed on it; the first is slower than the others.
    """

    base: Base
    host: AdapterHost
    users: set[str] = field(default_factory=set)
    served: OrderedDict[str, None] = field(default_factory=OrderedDict)
    is_warm: bool = False

    def make_room(self, in_use: set[str]) -> None:
        """Detach served adapters that nobody uses until one more may be kept."""
        idle = [name for name in self.served if name not in in_use]
        for name in idle[: max(0, len(self.served) - SERVED_ADAPTERS + 1)]:
            self.host.detach(name)
            del self.served[name]


class Slots:
    """All bases in memory.

    Attributes:
        encodings: What was read for them lately.
    """

    def __init__(self, *, models_dir: Path, allow_hub: bool, roots: Sequence[Path], device: torch.device) -> None:
        self._models_dir = models_dir
        self._allow_hub = allow_hub
        self._roots = tuple(roots)
        self._device = device
        self.encodings = Encodings()
        self._by_hash: dict[tuple[str, torch.dtype], Slot] = {}
        self._by_folder: OrderedDict[tuple[Path, torch.dtype], Slot] = OrderedDict()  # most recently used last

    def shared(self, name: str, dtype: torch.dtype = torch.float32) -> Slot:
        """Return the resident base called *name* in *dtype*, loaded where it is not.

        Two folders with the same weights share one slot.

        Raises:
            NoSuchBase: It cannot be found or loaded.
        """
        folder = self._resolve(name)
        place = (folder, dtype)
        if place in self._by_folder:
            self._by_folder.move_to_end(place)
            return self._by_folder[place]
        self._evict()
        base = load_base(folder, name=name, device=self._device, dtype=dtype)
        slot = self._by_hash.setdefault((base.sha256, dtype), Slot(base, AdapterHost(base)))
        self._by_folder[place] = slot
        return slot

    def private(self, name: str) -> Base:
        """Return a copy of the base called *name* that is the caller's to change.

        Raises:
            NoSuchBase: It cannot be found or loaded.
        """
        return load_base(self._resolve(name), name=name, device=self._device)

    def _resolve(self, name: str) -> Path:
        return resolve_base(name, models_dir=self._models_dir, allow_hub=self._allow_hub, roots=self._roots)

    def _evict(self) -> None:
        idle = [place for place, slot in self._by_folder.items() if not slot.users]
        for place in idle[: max(0, len(idle) - IDLE_BASES + 1)]:
            slot = self._by_folder.pop(place)
            if slot not in self._by_folder.values():
                self._by_hash = {key: one for key, one in self._by_hash.items() if one is not slot}
