"""Runs and adapters as the journal tells of them."""

import pytest

from bus.cli.training_shelf import read_adapter, read_run
from bus.wire.codec import encode_body

CONVERSATION = {"conversation": b"\xab" * 16, "opener": "writer", "outcome": None}
REQUEST = ("TrainRequest", {"task_id": "t-1", "base": "tiny", "method": "lora"})
QUOTE = ("Quote", {"steps": 300})
CHECKPOINT = ("Checkpoint", {"metrics": {"step": 100, "loss": 0.5}})
TRAINED = (
    "Trained",
    {
        "adapter": "sections@2",
        "artifact": {"uri": "file:///a", "sha256": "0" * 64},
        "metrics": {"step": 300, "loss": 0.1},
    },
)


def transcript(*messages):
    event = {"kind": "event", "type": None, "body": b"", "event": "opened"}
    return [event, *({"kind": "message", "type": type, "body": encode_body(body)} for type, body in messages)]


@pytest.mark.parametrize(
    ("messages", "state"),
    [
        ([REQUEST], "requested"),
        ([REQUEST, QUOTE], "quoted"),
        ([REQUEST, QUOTE, ("Accept", {}), ("Queued", {}), ("Started", {})], "running"),
        ([REQUEST, QUOTE, ("Started", {}), ("Pause", {}), ("Paused", {})], "paused"),
        ([REQUEST, ("Started", {}), ("Cancel", {})], "canceling"),
    ],
)
def test_the_newest_message_tells_where_a_live_run_stands(messages, state):
    assert read_run(CONVERSATION, transcript(*messages)).state == state


def test_the_outcome_tells_how_a_run_ended_and_the_result_its_figures():
    run = read_run({**CONVERSATION, "outcome": "trained"}, transcript(REQUEST, QUOTE, CHECKPOINT, TRAINED))

    assert (run.state, run.step, run.of_steps, run.loss, run.adapter) == ("trained", 300, 300, 0.1, "sections@2")


def test_a_conversation_without_a_request_is_no_run():
    assert read_run(CONVERSATION, transcript()) is None


def test_an_adapter_comes_of_a_trained_run_alone():
    assert read_adapter(CONVERSATION, transcript(REQUEST, CHECKPOINT)) is None
    assert read_adapter(CONVERSATION, transcript(REQUEST, ("Trained", {**TRAINED[1], "adapter": None}))) is None
    adapter = read_adapter(CONVERSATION, transcript(REQUEST, TRAINED))
    assert (adapter.name, adapter.base, adapter.uri) == ("sections@2", "tiny", "file:///a")
