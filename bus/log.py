"""Log events and how they are shown: people on a terminal, JSON lines otherwise; always standard error.

Event names are ``noun.past_verb`` from ``EVENTS``; facts are keys named as in the glossary. Never a body.
"""

import logging
import sys

import structlog

EVENTS = frozenset(
    {
        "broker.started", "broker.stopped", "broker.failed", "broker.recovered",
        "agent.registered", "agent.left", "agent.lost", "agent.restarted", "agent.started", "agent.exited",
        "agent.gave_up", "agent.ignored", "agent.disconnected", "agent.reconnected", "agent.refused",
        "message.violated",
        "conversation.opened", "conversation.ended",
        "delivery.expired", "delivery.dead", "delivery.failed", "delivery.reminded", "delivery.waiting",
        "lease.lost", "frame.refused",
        "turn.revoked", "turn.refused",
        "fleet.started", "fleet.stopped", "fleet.failed", "notify.failed",
        "task.accepted", "task.refused", "run.started", "run.finished", "run.failed", "run.canceled",
        "run.resumed", "run.progressed", "checkpoint.written", "adapter.registered", "adapter.deleted", "text.parted",
        "child.started", "child.died", "face.started", "face.failed",
    }
)  # fmt: skip


def configure_logging(level: str = "info") -> None:
    """Set up structlog for this process; called once by whoever owns the process.

    Raises:
        ValueError: *level* is no level of the standard library.
    """
    numbers = logging.getLevelNamesMapping()
    if level.upper() not in numbers:
        raise ValueError(f"expected a log level ({', '.join(sorted(numbers)).lower()}), got {level!r}")
    on_terminal = sys.stderr.isatty()
    # Plain tracebacks: the pretty ones print local variables, and so bodies.
    people = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    renderer = people if on_terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(numbers[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
