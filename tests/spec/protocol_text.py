"""Texts of small protocols for tests of the front end."""

import json
from pathlib import Path

from bus.spec.compile import check_text
from bus.spec.diagnostic import Diagnostic
from bus.spec.loader import load_document
from bus.spec.node import plain

DATA = Path(__file__).parent / "data"

HEAD = """\
language: 1
protocol: small
version: 1.0.0
roles: {a: {}, b: {}}
"""


def small(messages: str = "M: {}", conversation: str = "- a -> b: M", **sections: str) -> str:
    """Return a protocol of two roles; other sections as YAML in one line."""
    lines = [f"{name}: {text}" for name, text in sections.items()]
    steps = "\n".join(f"  {line}" for line in conversation.splitlines())
    return HEAD + "\n".join([*lines, f"messages: {{{messages}}}", "conversation:", steps, ""])


def rules_of(text: str) -> set[str]:
    """Return the rules that *text* breaks."""
    return {one.rule for one in diagnostics(text)}


def diagnostics(text: str) -> list[Diagnostic]:
    """Return what is wrong with *text*."""
    return check_text(text, "small.yaml")[1]


def negative_cases() -> list[dict]:
    """Return the minimal protocols with the rule that each must trigger."""
    return plain(load_document(DATA / "negative_cases.yaml"))


def text_of(case: dict) -> str:
    """Return the protocol of a negative case: roles and messages are declared as they appear.

    The text is JSON, which is YAML too.
    """
    roles: dict[str, dict] = {}
    messages: dict[str, dict] = {}

    def gather(value: object) -> None:
        if isinstance(value, list):
            for item in value:
                gather(item)
        elif isinstance(value, dict):
            for key, inner in value.items():
                if "->" in key:
                    sender, receivers = key.split(" -> ")
                    roles.update({role: {} for role in (sender, *receivers.split(", "))})
                    messages[inner.rstrip("*+")] = {}
                else:
                    gather(inner)

    gather(case["conversation"])
    if "roles" in case:
        roles = {name: {} for name in case["roles"]}
    roles.update({name: {"human": True} for name in case.get("human", [])})
    if len(roles) < 2:
        roles["other"] = {}
    return json.dumps(
        {
            "language": 1,
            "protocol": "case",
            "version": "1.0.0",
            "roles": roles,
            "messages": messages | case.get("messages", {}),
            "outcomes": dict.fromkeys(case.get("outcomes", [])),
            "conversation": case["conversation"],
        }
    )
