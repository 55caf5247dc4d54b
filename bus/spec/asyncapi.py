"""A protocol as an AsyncAPI 3.1 document, for portals and generators that know that format.

A channel is a role's mailbox, its messages what the role may be sent. Operations are told for every role, which
their tag names: what it receives from its own channel, and what it sends to another's. The order in which
messages may go is what AsyncAPI cannot say; the description points to the spec.
"""

from __future__ import annotations

from typing import TypeAlias

from bus.spec.json_schema import View, definitions, message_schema
from bus.spec.syntax import MessageDeclaration, Spec
from bus.spec.walk import sends

Document: TypeAlias = dict[str, object]

VERSION = "3.1.0"
CONTENT_TYPE = "application/vnd.msgpack"
_VIEW = View(definitions="#/components/schemas/")
_ORDER = "Who may say what in which order, and by when, is written in the palaver spec; the bus enforces it."


def asyncapi(spec: Spec) -> Document:
    """Return *spec* as an AsyncAPI document of plain values."""
    sent = _sent(spec)
    return {
        "asyncapi": VERSION,
        "id": f"urn:palaver:{spec.protocol}:{spec.version}",
        "info": {
            "title": spec.protocol,
            "version": spec.version,
            "description": "\n\n".join(filter(None, (spec.doc.strip(), _ORDER))),
            "tags": [{"name": spec.status, "description": "How settled the protocol is."}],
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": _channels(spec, sent),
        "operations": _operations(spec, sent),
        "components": {
            "schemas": definitions(spec, spec.messages, _VIEW),
            "messages": {message.name: _message(spec, message) for message in spec.messages},
            "messageTraits": {"envelope": _ENVELOPE},
            "correlationIds": {"conversation": _CORRELATION},
        },
    }


_CORRELATION: Document = {
    "description": "All messages of one conversation carry its id.",
    "location": "$message.header#/conversation",
}
_ENVELOPE: Document = {
    "headers": {
        "type": "object",
        "required": ["conversation", "message_id", "role"],
        "properties": {
            "conversation": {"type": "string", "format": "binary", "description": "16 bytes."},
            "message_id": {
                "type": "string",
                "format": "binary",
                "description": "16 bytes, the same for every delivery of the message.",
            },
            "role": {"type": "string", "description": "The role that sends."},
        },
    },
    "correlationId": {"$ref": "#/components/correlationIds/conversation"},
}


def _sent(spec: Spec) -> dict[tuple[str, str], list[str]]:
    """Return (sender, receiver) → names of messages, each once, in the order of the conversation."""
    found: dict[tuple[str, str], list[str]] = {}
    for send in sends(spec.conversation):
        for receiver in send.receivers:
            names = found.setdefault((send.sender, receiver), [])
            if send.message not in names:
                names.append(send.message)
    return found


def _channels(spec: Spec, sent: dict[tuple[str, str], list[str]]) -> Document:
    channels: Document = {}
    for role in spec.roles:
        names = dict.fromkeys(name for (_, receiver), names in sent.items() if receiver == role.name for name in names)
        doc = role.doc.strip()
        channels[role.name] = {
            "address": f"{spec.protocol}@{spec.version.partition('.')[0]}/{role.name}",
            "title": role.name,
            **({"description": doc} if doc else {}),
            "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
            "tags": [{"name": "role"}, *([{"name": "human"}] if role.human else [])],
        }
    return channels


def _operations(spec: Spec, sent: dict[tuple[str, str], list[str]]) -> Document:
    operations: Document = {}
    for role in spec.roles:
        heard = dict.fromkeys(name for (_, receiver), names in sent.items() if receiver == role.name for name in names)
        if heard:
            title = f"{role.name} receives"
            operations[f"{role.name}.receive"] = _operation("receive", title, role.name, role.name, list(heard))
        for (sender, receiver), names in sent.items():
            if sender == role.name:
                title = f"{sender} sends to {receiver}"
                operations[f"{sender}.send.{receiver}"] = _operation("send", title, sender, receiver, names)
    return operations


def _operation(action: str, title: str, role: str, channel: str, names: list[str]) -> Document:
    return {
        "action": action,
        "title": title,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names],
        "tags": [{"name": role}],
    }


def _message(spec: Spec, message: MessageDeclaration) -> Document:
    doc = message.doc.strip()
    delivery = message.delivery or spec.delivery
    payload = {key: value for key, value in message_schema(spec, message, _VIEW).items() if key != "$defs"}
    return {
        "name": message.name,
        "title": message.name,
        **({"summary": doc.partition("\n")[0]} if doc else {}),
        "contentType": CONTENT_TYPE,
        "payload": payload,
        "traits": [{"$ref": "#/components/messageTraits/envelope"}],
        "tags": [{"name": delivery, "description": "Delivery class."}],
        **({"x-window": message.window} if message.window is not None else {}),
        **({"x-deprecated": message.deprecated} if message.deprecated else {}),
        **({"examples": [{"payload": example} for example in message.examples]} if message.examples else {}),
    }
