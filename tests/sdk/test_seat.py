"""The local view of a conversation: what may be sent, and what is kept."""

import pytest
from work_protocol import work

from bus.errors import BodyInvalid, NotAllowed, TooLarge
from bus.sdk.part import part_of
from bus.sdk.seat import Seat, SeatState
from bus.spec.compile import load_protocol
from bus.wire.codec import decode_body, encode_body

training = load_protocol("training")
newsroom = load_protocol("newsroom")


def seat_of(role: str) -> Seat:
    return Seat(b"c" * 16, part_of(work, work.role_index(role)))


def deliver(kind: int, sender: int, *, state: int = 0, epoch: int = 0) -> list[object]:
    return [11, b"c" * 16, 0, 1, 1, 1, 1, 0, kind, sender, epoch, 1, state, None, None, b"m" * 16, None, b"\x80"]


def test_message_out_of_order_is_refused_with_what_is_allowed() -> None:
    with pytest.raises(NotAllowed, match=r"client may not send 'Bye' now in work@1\.0\.0.*63636363.*Ask to worker"):
        seat_of("client").choose(work.Bye(), None)


def test_refused_message_changes_nothing() -> None:
    seat = seat_of("client")
    before = seat.at
    with pytest.raises(NotAllowed):
        seat.choose(work.Bye(), None)

    assert (seat.at, seat.allowed()) == (before, [work.Ask, work.Stop])


def test_message_of_another_protocol_is_refused() -> None:
    with pytest.raises(NotAllowed, match=r"expected a message of work@1\.0\.0, got 'Digest'"):
        seat_of("client").choose(newsroom.Digest(summary="", sources=[]), None)


def test_wrong_receiver_is_refused_with_the_right_one() -> None:
    with pytest.raises(NotAllowed, match="expected 'Ask' to go to worker, got 'client'"):
        seat_of("client").choose(work.Ask(job="a", n=1), "client")


def test_named_receiver_is_taken() -> None:
    assert seat_of("client").choose(work.Ask(job="a", n=1), ["worker"])[0][0][0] == work.message_index("Ask")


def test_key_keeps_its_value_in_a_conversation() -> None:
    seat = seat_of("client")
    seat.choose(work.Ask(job="a", n=1), None)

    with pytest.raises(BodyInvalid, match=r"Ask\.job: expected 'a'.*got 'b'"):
        seat.choose(work.Ask(job="b", n=1), None)


def test_body_above_a_frame_is_refused() -> None:
    with pytest.raises(TooLarge, match="artifact"):
        seat_of("client").choose(work.Ask(job="x" * (1 << 20), n=1), None)


def test_delivery_steps_the_local_machine() -> None:
    seat = seat_of("worker")
    seat.take(deliver(work.message_index("Ask"), work.role_index("client"), state=0))

    assert seat.owes()
    assert {one.__name__ for one in seat.allowed()} == {"Part", "Note", "Done"}


def test_brokers_word_counts_after_a_bus_event() -> None:
    seat = seat_of("worker")
    seat.take(deliver(-1, -1, state=1, epoch=3))

    assert (seat.at, seat.epoch) == (1, 3)


def test_lossy_delivery_steps_nothing() -> None:
    seat = seat_of("client")
    before = seat.at
    seat.take(deliver(work.message_index("Note"), work.role_index("worker"), state=5))

    assert seat.at == before


def test_state_that_was_never_looked_at_is_not_sent() -> None:
    assert SeatState(encode_body({"a": 1}), 100).encode() is None
    assert SeatState(None, 100).encode() is None


def test_state_that_did_not_change_is_not_sent() -> None:
    state = SeatState(encode_body({"a": 1}), 100)

    assert state.value == {"a": 1}
    assert state.encode() is None


def test_changed_state_is_sent_once() -> None:
    state = SeatState(None, 100)
    state.value["a"] = [1, "x", b"y", None, {"z": 2.5}]
    encoded = state.encode()
    state.kept(encoded)

    assert encoded is not None
    assert decode_body(encoded) == {"a": [1, "x", b"y", None, {"z": 2.5}]}
    assert state.encode() is None


def test_emptied_state_is_sent() -> None:
    state = SeatState(encode_body({"a": 1}), 100)
    state.value.clear()

    assert state.encode() == encode_body({})


def test_state_above_its_limit_is_refused() -> None:
    state = SeatState(None, 10)
    state.value["a"] = "x" * 20

    with pytest.raises(TooLarge, match="at most 10 bytes"):
        state.encode()


def test_state_of_other_than_plain_values_is_refused() -> None:
    state = SeatState(None, 100)
    state.value["a"] = object()

    with pytest.raises(BodyInvalid, match=r"conversation\.state"):
        state.encode()


def test_state_kept_in_the_middle_of_a_stream_is_that_of_its_beginning() -> None:
    state = SeatState(encode_body({"a": 1}), 100)
    state.value["a"] = 2
    begun_again = SeatState(state.in_stream(5), 100)

    assert (begun_again.value, begun_again.done) == ({"a": 1}, 5)


def test_forgotten_changes_are_gone() -> None:
    state = SeatState(encode_body({"a": 1}), 100)
    state.value["a"] = 2
    state.forget()

    assert state.value == {"a": 1}
