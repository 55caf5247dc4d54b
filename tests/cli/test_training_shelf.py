"""Adapters as the journal tells of them."""

from bus.cli.training_shelf import read_adapter
from bus.wire.codec import encode_body

CONVERSATION = {"conversation": b"\xab" * 16, "opener": "writer", "outcome": None}
REQUEST = ("TrainRequest", {"task_id": "t-1", "base": "tiny", "method": "lora"})
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


def test_an_adapter_comes_of_a_trained_run_alone():
    assert read_adapter(CONVERSATION, transcript(REQUEST, CHECKPOINT)) is None
    assert read_adapter(CONVERSATION, transcript(REQUEST, ("Trained", {**TRAINED[1], "adapter": None}))) is None
    adapter = read_adapter(CONVERSATION, transcript(REQUEST, TRAINED))
    assert (adapter.name, adapter.base, adapter.uri) == ("sections@2", "tiny", "file:///a")
