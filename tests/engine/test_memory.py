import pytest
from speaker import Speaker

from bus.clock import ManualClock
from bus.engine.memory import MemoryEngine, MemoryJournal
from bus.settings import Settings
from bus.wire.codec import MAX_DELIVERY_FRAME_BYTES, decode_frame
from bus.wire.record import Kind

LINGER = 0.01  # longer than acknowledgements and lazy rows wait for company


class Bench:
    """An engine, its clock and one speaker, without a loop."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.settings = Settings()
        self.engine = MemoryEngine(settings=self.settings, clock=self.clock)
        self.tap = Speaker(self.engine.connect)

    def settle(self, duration: float = LINGER) -> None:
        self.engine.settle()
        self.clock.advance(duration)
        self.engine.settle()

    def start(self) -> None:
        self.tap.hello()
        self.tap.open()
        self.settle()

    def transcript_length(self) -> int:
        self.tap.query("transcript", conversation=self.tap.conversation)
        self.engine.settle()
        return len(self.tap.take(Kind.REPLY)[0][3])

    def bus_time(self) -> float:
        self.tap.query("status")
        self.engine.settle()
        return float(self.tap.take(Kind.REPLY)[0][3]["bus_time"])


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_durable_message_is_not_accepted_before_it_is_synced(bench: Bench) -> None:
    bench.start()
    bench.engine.journal.holds_back = True

    bench.tap.drop(1)
    bench.settle()
    assert bench.tap.accepted() == 1

    bench.engine.journal.holds_back = False
    bench.settle()
    assert bench.tap.accepted() == 2


def test_a_crash_loses_what_was_not_synced_and_nothing_else(bench: Bench) -> None:
    bench.start()
    bench.tap.drop(1)
    bench.settle()
    bench.engine.journal.holds_back = True
    bench.tap.drop(2)
    bench.settle()

    bench.engine.crash()
    bench.engine.start()
    bench.start()

    assert bench.transcript_length() == 1


def test_any_prefix_of_what_was_not_synced_may_survive_a_crash(bench: Bench) -> None:
    bench.start()
    bench.engine.journal.holds_back = True
    for number in (1, 2, 3):
        bench.tap.drop(number)
        bench.settle()

    bench.engine.crash(n_surviving=2)
    bench.engine.start()
    bench.engine.journal.holds_back = False
    bench.start()

    assert bench.transcript_length() == 2


def test_a_broker_that_is_down_takes_nothing_and_answers_once_it_is_back(bench: Bench) -> None:
    bench.engine.crash()
    bench.tap.hello()
    bench.settle()
    assert bench.tap.records == []
    with pytest.raises(RuntimeError, match="down"):
        _ = bench.engine.broker

    bench.engine.start()
    bench.settle()
    assert bench.tap.take(Kind.WELCOME)


def test_bus_time_goes_on_where_the_journal_has_it_and_leaves_downtime_out(bench: Bench) -> None:
    bench.start()
    bench.settle(5.0)
    bench.tap.drop(1)
    bench.settle()
    before = bench.bus_time()
    bench.engine.crash()
    bench.clock.advance(10_000.0)

    bench.engine.start()
    bench.start()

    assert before >= 5.0
    assert bench.bus_time() == pytest.approx(before, abs=0.1)


def test_bytes_that_are_no_frame_are_refused_and_the_session_goes_on(bench: Bench) -> None:
    bench.start()

    bench.tap.wire.send(b"\xc1")
    bench.tap.wire.send(bytes(MAX_DELIVERY_FRAME_BYTES))
    bench.settle()
    assert [record[2] for record in bench.tap.take(Kind.REFUSED)] == ["malformed", "malformed"]

    bench.tap.drop(1)
    bench.settle()
    assert bench.tap.accepted() == 2


def test_an_answer_that_no_frame_can_carry_is_an_error_of_its_query_alone(bench: Bench) -> None:
    bench.start()
    for number in range(3):
        bench.tap.drop(number, bytes(500_000))
    bench.settle()

    bench.tap.query("inbox")
    bench.tap.query("status")
    bench.settle()

    large, small = bench.tap.take(Kind.REPLY)
    assert large[2:] == [False, {"code": "too-large", "message": large[3]["message"]}]
    assert small[2] is True


def test_a_peer_whose_connection_is_gone_is_a_stranger_at_its_next_heartbeat(bench: Bench) -> None:
    heart = Speaker(bench.engine.connect, "heart")
    bench.start()
    (welcome,) = bench.tap.take(Kind.WELCOME)
    token = welcome[2]
    heart.put([Kind.HEARTBEAT, token])
    bench.settle()
    assert heart.records == [[Kind.HEARTBEAT, b""]]

    bench.tap.drop(1)
    bench.tap.wire.close()
    bench.settle()
    heart.put([Kind.HEARTBEAT, token])
    bench.settle()

    assert heart.records[1:] == [[Kind.NOTICE, "hello", {}]]


def test_frames_come_in_the_order_in_which_they_were_sent(bench: Bench) -> None:
    bench.start()
    for number in range(600):
        bench.tap.query("status") if number % 2 else bench.tap.put([Kind.QUERY, number, "status", {}])
    bench.settle()

    replies = [record[1] for record in bench.tap.take(Kind.REPLY)]
    assert replies == [1 if number % 2 else number for number in range(600)]


def test_the_memory_journal_recovers_rows_as_they_were_appended() -> None:
    journal = MemoryJournal()
    row: list[object] = ["row", 1]
    journal.append(2.5, [row])
    row[1] = 2
    journal.close()

    assert list(journal.recover()) == [(2.5, [["row", 1]])]


def test_frames_are_those_of_the_wire(bench: Bench) -> None:
    frames: list[bytes] = []
    peer = bench.engine.connect(frames.append)

    peer.send(b"\x91\x92\x08\xc4\x00")  # one record: [8 HEARTBEAT, empty token]
    bench.settle()

    assert [decode_frame(frame) for frame in frames] == [[[Kind.NOTICE, "hello", {}]]]
