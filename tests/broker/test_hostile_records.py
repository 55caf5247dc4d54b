"""Whatever a peer says, the broker answers or refuses it and goes on with everybody else."""

from __future__ import annotations

import pytest
from desk import EMPTY, Desk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from job_protocol import JOB

from bus.ids import conversation_id
from bus.wire.codec import decode_frame, encode_frames
from bus.wire.record import SHAPES, WIRE_VERSION, Kind, Record

KNOWN = conversation_id("client", "job", "r1")
MINE = conversation_id("intruder", "job", "mine")

small = st.integers(-2, 6)
text = st.sampled_from(["", "client", "worker", "job", "r1", "dead", "cancel", "cancel by", "é", "x" * 300])
blob = st.sampled_from([b"", b"x", KNOWN, MINE, b"m" * 16, b"n" * 16, EMPTY, b"\xc1"])
plain = st.none() | st.booleans() | small | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | text | blob
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(text | blob, inner, max_size=3), max_leaves=8
)
of_type = {
    int: small | st.integers(-(2**63), 2**64 - 1),
    str: text,
    bytes: blob,
    list: st.lists(values, max_size=4),
    dict: st.dictionaries(text | blob, values, max_size=3),
    bool: st.booleans(),
    float: st.floats(allow_nan=False),
    type(None): st.none(),
}
names = st.sampled_from(
    ["status", "conversations", "transcript", "inbox", "answer", "cancel", "dead", "requeue", "drop", "gave-up", "no"]
)
sends = st.lists(st.tuples(blob, small, small, st.none(), st.none(), blob).map(list), max_size=3)


def well_typed(kind: int) -> st.SearchStrategy[Record]:
    fields = [st.one_of([of_type[one] for one in allowed]) for allowed in SHAPES[kind]]
    return st.tuples(st.just(kind), *fields).map(list)


queries = st.tuples(
    st.just(int(Kind.QUERY)),
    small,
    names,
    st.fixed_dictionaries(
        {},
        optional={
            "conversation": blob,
            "role": text,
            "position": small,
            "epoch": small,
            "type": small,
            "address": small,
            "body": blob,
            "by": text,
            "name": text,
            "limit": small,
            "after": small,
            "reason": text,
        },
    ),
).map(list)
hellos = st.tuples(
    st.just(int(Kind.HELLO)),
    st.just(WIRE_VERSION),
    st.sampled_from(["intruder", "worker", "client"]),
    st.integers(0, 1),
    st.sampled_from([[JOB], [], ["no protocol"], [JOB, JOB]]),
    st.lists(st.tuples(small, st.sampled_from(["client", "worker", "boss"])).map(list), max_size=2),
    small,
    st.lists(st.tuples(blob, small, small, small, blob).map(list), max_size=2),
).map(list)
turns = st.tuples(
    st.just(int(Kind.COMMIT)), small, blob, small, st.sampled_from([0, (1 << 32) | 1, (1 << 32) | 2]), small, small,
    st.booleans(), small, sends, st.none() | blob,
).map(list)  # fmt: skip
records = st.one_of(
    *[well_typed(int(kind)) for kind in SHAPES],
    queries,
    hellos,
    turns,
    st.lists(values, max_size=12).map(lambda rest: [3, *rest]),
    st.tuples(st.integers(-1, 20), values).map(list),
)


@pytest.mark.slow
@given(frames=st.lists(st.lists(records, min_size=1, max_size=4), max_size=12), starts_as=hellos)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_record_stops_the_broker_or_reaches_the_others(frames: list[list[Record]], starts_as: Record) -> None:
    desk = Desk(JOB)
    honest = desk.peer("honest")
    _worker, client = desk.peer("worker", plays=["worker"], instance=7), desk.peer("client", instance=7)
    desk.send(client, desk.open(client, "client"), "client", "Ask", "worker")
    peer = b"intruder"

    for frame in [[starts_as], *frames]:
        desk.broker.receive(peer, frame, desk.now)
        desk.now += 1.0
        desk.broker.receive(honest.routing_id, [[int(Kind.CREDIT), 0]], desk.now)
        desk.broker.tick(desk.now)
        rows = desk.broker.take_rows(all_of_them=True)
        if rows:
            desk.unsynced.append((desk.now, rows))
        desk.sync()
        for output in desk.broker.take_output().values():
            for sent in encode_frames(output):
                assert decode_frame(sent)

    status = desk.query(honest, "status")
    assert "honest" in {agent["name"] for agent in status["agents"]}
    n_conversations = status["n_conversations"]
    desk.restart()
    assert desk.query(desk.peer("honest"), "status")["n_conversations"] == n_conversations
