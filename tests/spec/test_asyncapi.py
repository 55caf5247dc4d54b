"""AsyncAPI documents: what they say, and that the official schema takes them."""

import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from npm_packages import npm_folder
from protocol_text import DATA, small
from spec_source import parsed, shipped

from bus.spec.asyncapi import asyncapi

SPECS = sorted([*(Path(__file__).parents[2] / "specs").glob("*.protocol.yaml"), *DATA.glob("*.protocol.yaml")])


def document(path: Path) -> dict:
    return json.loads(json.dumps(asyncapi(parsed(path.read_text(encoding="utf-8"))), default=str))


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.name)
def test_every_reference_leads_somewhere(path):
    whole = document(path)
    for reference in references(whole):
        found = whole
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


def test_a_role_is_a_channel_with_what_it_may_be_sent_and_operations_for_what_it_does():
    whole = asyncapi(shipped("newsroom"))

    assert list(whole["channels"]) == ["desk", "researcher", "summarizer", "writer", "editor"]
    assert list(whole["channels"]["writer"]["messages"]) == ["Brief", "Digest", "Approve", "Revise", "Kill"]
    assert [name for name in whole["operations"] if name.startswith("writer.")] == [
        "writer.receive", "writer.send.editor", "writer.send.desk",
    ]  # fmt: skip
    assert whole["operations"]["writer.send.editor"] == {
        "action": "send",
        "title": "writer sends to editor",
        "channel": {"$ref": "#/channels/editor"},
        "messages": [{"$ref": "#/channels/editor/messages/Draft"}],
        "tags": [{"name": "writer"}],
    }


def test_a_message_tells_its_payload_delivery_window_and_what_correlates_it():
    spec = parsed(small("M: {doc: Hello., window: 3, delivery: at-least-once, deprecated: use N, fields: {n: int}}"))
    message = asyncapi(spec)["components"]["messages"]["M"]

    assert message["payload"]["properties"] == {"n": {"type": "integer"}}
    assert [tag["name"] for tag in message["tags"]] == ["at-least-once"]
    assert (message["x-window"], message["x-deprecated"], message["summary"]) == (3, "use N", "Hello.")
    assert message["traits"] == [{"$ref": "#/components/messageTraits/envelope"}]


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.timeout(240)
def test_the_official_schema_takes_every_document():
    official = npm_folder() / "node_modules" / "@asyncapi" / "specs" / "schemas" / "3.1.0.json"
    validator = jsonschema.Draft7Validator(json.loads(official.read_text(encoding="utf-8")))
    for path in SPECS:
        assert [error.message for error in validator.iter_errors(document(path))] == []

    broken = document(SPECS[0])
    broken["operations"]["shout"] = {"action": "shout", "channel": {"$ref": "#/channels/client"}}
    assert not validator.is_valid(broken)
