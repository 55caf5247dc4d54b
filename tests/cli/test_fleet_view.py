"""How a running fleet looks."""

import io
import json

import structlog
from rich.console import Console

from bus.cli.fleet_view import FleetView

LINE = json.dumps({"event": "agent.registered", "level": "info", "plays": "newsroom.writer"})


def view(*, terminal):
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=200, color_system="standard" if terminal else None)
    return FleetView(console, ["broker", "writer"]), output


def test_on_a_terminal_lines_are_for_people():
    fleet, output = view(terminal=True)

    fleet.show("writer", LINE)

    text = output.getvalue()
    assert "writer" in text
    assert "│" in text
    assert "agent.registered  plays=newsroom.writer" in text
    assert "{" not in text


def test_elsewhere_lines_stay_as_they_were():
    fleet, output = view(terminal=False)

    fleet.show("writer", LINE)

    assert output.getvalue() == f"writer | {LINE}\n"


def test_markup_and_escapes_in_a_line_change_nothing():
    fleet, output = view(terminal=True)

    fleet.show("writer", "[red]x[/red] \x1b[31my\x1b[0m")

    assert "[red]x[/red]" in output.getvalue()


def test_the_supervisors_own_log_goes_the_same_way():
    fleet, output = view(terminal=False)
    before = structlog.get_config()
    try:
        fleet.take_log()
        structlog.get_logger().warning("agent.restarted", agent="writer")
        structlog.get_logger().debug("agent.started", agent="writer")
    finally:
        structlog.configure(**before)

    [line] = output.getvalue().splitlines()
    assert line.startswith("fleet | ")
    assert json.loads(line.removeprefix("fleet | "))["event"] == "agent.restarted"
