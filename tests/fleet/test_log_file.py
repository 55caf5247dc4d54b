"""What processes print: kept within bounds and shown to people."""

import json

from bus.fleet.log_file import LINE_BYTES, LineSplitter, LogFile, read_log_line


def test_lines_are_put_together_from_chunks():
    splitter = LineSplitter()

    lines = [
        *splitter.feed(b"one\ntw"),
        *splitter.feed(b"o\r\nthree"),
        *splitter.finish(),
        *splitter.finish(),
    ]

    assert lines == [b"one", b"two", b"three"]


def test_a_line_without_end_is_cut():
    splitter = LineSplitter()

    lines = list(splitter.feed(b"x" * (2 * LINE_BYTES + 5)))

    assert [len(line) for line in lines] == [LINE_BYTES, LINE_BYTES]
    assert list(splitter.finish()) == [b"x" * 5]


def test_a_full_file_makes_room_and_keeps_the_newest(tmp_path):
    log = LogFile(tmp_path / "a.log", limit_bytes=100)
    for number in range(100):
        log.write(b"line %03d" % number)
    log.close()

    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["a.log", "a.log.1", "a.log.2"]
    assert all(path.stat().st_size <= 100 for path in tmp_path.iterdir())
    assert (tmp_path / "a.log").read_bytes().endswith(b"line 099\n")


def test_a_line_larger_than_the_file_is_still_kept(tmp_path):
    log = LogFile(tmp_path / "a.log", limit_bytes=10)
    log.write(b"x" * 50)
    log.close()

    assert (tmp_path / "a.log").read_bytes() == b"x" * 50 + b"\n"


def test_our_own_log_lines_are_shown_as_event_and_facts():
    line = json.dumps(
        {
            "event": "agent.registered",
            "level": "warning",
            "timestamp": "2026-01-01",
            "agent": "writer",
            "why": "a b",
        }
    )

    assert read_log_line(line) == ('agent.registered  agent=writer why="a b"', "yellow")


def test_a_fact_that_repeats_whose_line_it_is_is_left_out():
    line = json.dumps({"event": "agent.started", "level": "info", "agent": "writer", "instance": 0})

    assert read_log_line(line, name="writer") == ("agent.started  instance=0", "")


def test_a_traceback_in_a_log_line_is_shown():
    line = json.dumps({"event": "delivery.failed", "level": "error", "exception": "Traceback …"})

    assert read_log_line(line)[0] == "delivery.failed\nTraceback …"


def test_other_lines_are_shown_as_they_are():
    for line in ("plain text", "[1, 2]", '{"no": "event"}', "{broken"):
        assert read_log_line(line) == (line, "")
