"""How a running fleet looks: each line behind the name of who printed it, colored on a terminal."""

from __future__ import annotations

import structlog
from rich.console import Console
from rich.text import Text

from bus.fleet.log_file import read_log_line

_COLORS = ("cyan", "magenta", "green", "yellow", "blue", "bright_red", "bright_cyan", "bright_magenta")


class FleetView:
    """Shows lines of processes; also the file that the supervisor's own log goes to."""

    def __init__(self, console: Console, names: list[str], *, own: str = "fleet") -> None:
        self._console = console
        self._own = own
        self._width = max(map(len, [*names, own]))
        self._colors = {name: _COLORS[index % len(_COLORS)] for index, name in enumerate(names)}

    def show(self, name: str, line: str) -> None:
        """Print one line of the process called *name*; JSON stays JSON where nobody reads along."""
        if not self._console.is_terminal:
            self._console.print(f"{name} | {line}", markup=False, soft_wrap=True)
            return
        text, style = read_log_line(line, name=name)
        for part in text.splitlines() or [""]:
            prefix = Text(f"{name:<{self._width}} │ ", style=self._colors.get(name, "bold"))
            self._console.print(prefix + Text.from_ansi(part, style=style), soft_wrap=True)

    def say(self, text: str, style: str = "") -> None:
        """Print a sentence of the supervisor's own."""
        prefix = Text(
            f"{self._own:<{self._width}} │ " if self._console.is_terminal else f"{self._own} | ", style="bold"
        )
        self._console.print(prefix + Text(text, style=style), soft_wrap=True)

    def take_log(self) -> None:
        """Have the log of this process shown like that of any other."""
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(20),
            logger_factory=lambda *_: _Printer(self),
            cache_logger_on_first_use=False,
        )


class _Printer:
    """What structlog prints with."""

    def __init__(self, view: FleetView) -> None:
        self._view = view

    def info(self, line: str) -> None:
        """Show one rendered line."""
        self._view.show(self._view._own, line)

    debug = warning = error = critical = exception = info
