"""palaver's public SDK: write agents, and scripts that talk to them.

Everything is loaded when it is first asked for, so that ``import bus`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bus.errors import (
        BrokerUnavailable,
        ConversationEnded,
        Failure,
        NotAllowed,
        PalaverError,
        Refused,
        Revoked,
        SpecError,
    )
    from bus.sdk.agent import Agent
    from bus.sdk.client import Client
    from bus.sdk.conversation import Conversation, Result, SyncConversation
    from bus.sdk.notice import (
        CutOff,
        DeadlinePassed,
        Ended,
        Interrupted,
        Joined,
        LoopEnded,
        NobodyPlays,
        Opened,
        Returned,
    )
    from bus.sdk.opened import OpenConversation
    from bus.settings import Settings
    from bus.spec.compile import load_protocol

__version__ = "0.1.0"

_HOMES = {
    "bus.errors": (
        "BrokerUnavailable", "ConversationEnded", "Failure", "NotAllowed", "PalaverError", "Refused",
        "Revoked", "SpecError",
    ),
    "bus.sdk.agent": ("Agent",),
    "bus.sdk.client": ("Client",),
    "bus.sdk.conversation": ("Conversation", "Result", "SyncConversation"),
    "bus.sdk.notice": (
        "CutOff", "DeadlinePassed", "Ended", "Interrupted", "Joined", "LoopEnded", "NobodyPlays", "Opened", "Returned",
    ),
    "bus.sdk.opened": ("OpenConversation",),
    "bus.settings": ("Settings",),
    "bus.spec.compile": ("load_protocol",),
}  # fmt: skip
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Agent",
    "BrokerUnavailable",
    "Client",
    "Conversation",
    "ConversationEnded",
    "CutOff",
    "DeadlinePassed",
    "Ended",
    "Failure",
    "Interrupted",
    "Joined",
    "LoopEnded",
    "NobodyPlays",
    "NotAllowed",
    "OpenConversation",
    "Opened",
    "PalaverError",
    "Refused",
    "Result",
    "Returned",
    "Revoked",
    "Settings",
    "SpecError",
    "SyncConversation",
    "load_protocol",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'bus' has no attribute {name!r}; it offers {', '.join(sorted(_HOME))}")
    value: object = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
