"""Logs: one line for each event on stderr, as key=value or as JSON. They are configured here alone.

The text of a message, a telephone number and a secret are never written. Code that logs leaves
them out. When one gets in nevertheless, by the text of an exception for example, it is masked here.

On a terminal an exception follows on lines of its own; elsewhere it stays in the line of its event.
When stderr goes to the journal of systemd, each line begins with its priority (sd-daemon(3)) and has no
time, since the journal notes both. Of an event that comes again and again lines are left out and
counted (`engine.logs.bursts`). What libraries log by `logging` goes the same way. A log that cannot be
written holds up nothing (`engine.logs.lines`).
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import time
from collections.abc import MutableMapping
from typing import Any, Literal, get_args

import msgspec
import structlog

from engine.logs.bursts import Bursts
from engine.logs.journal import PRIORITIES, in_journal
from engine.logs.lines import LINES

Level = Literal["debug", "info", "warning", "error"]

# The values of these keys are masked as a whole.
_SECRET_KEYS = frozenset({
    "text", "to", "sender", "msisdn", "recipient", "body", "password", "token", "api_key",
    "authorization",
})  # fmt: skip
# A number in E.164 is "+" and 7 to 15 digits. Credentials in a URL are "//user:password@".
_NUMBER = re.compile(r"\+\d{7,15}(?!\d)")
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]*@")
_PLAIN = re.compile(r"[^\s\"=]+")

_Event = MutableMapping[str, Any]
_bursts = Bursts()
_NUMBERS = logging.getLevelNamesMapping()
# The number of the level below which lines are left out, in this process.
_least = logging.INFO


def configure_logs(as_json: bool, level: Level = "info") -> None:
    """Send all logs of this process, and of those forked from it, to stderr. May be called again."""
    _bursts.forget()
    set_level(level)
    journal = in_journal(os.environ)
    line = as_json_line if as_json else as_text_line if sys.stderr.isatty() else as_one_text_line
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            leave_out_below,
            leave_out,
            *([] if journal else [structlog.processors.TimeStamper(fmt="iso", utc=True)]),
            structlog.processors.format_exc_info,
            mask,
            *([with_priority(line)] if journal else [line]),
        ],
        # The level may change while loggers that were bound before live on, so a processor looks at it.
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=lambda *_: LINES,
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_Library()], level=logging.WARNING, force=True)
    logging.captureWarnings(True)


def level_signal(level: Level) -> int:
    """The supervisor's wish that a process logs from `level` on: a real-time signal for each level."""
    return signal.SIGRTMIN + 1 + get_args(Level).index(level)


def set_level(level: Level) -> None:
    """Leave out the lines below `level` in this process, from now on."""
    global _least
    _least = _NUMBERS[level.upper()]


def present_level() -> Level:
    """The level below which lines are left out in this process."""
    return next(level for level in get_args(Level) if _NUMBERS[level.upper()] == _least)


def leave_out_below(_logger: object, method: str, event: _Event) -> _Event:
    """A processor of structlog: drop a line below the level of this process."""
    if _NUMBERS.get(str(event.get("level")).upper(), logging.CRITICAL) < _least:
        raise structlog.DropEvent
    return event


def write_left_out(*, all_of_them: bool = False) -> None:
    """Log how many lines were left out, and how many could not be written.

    Call it about once a second, and with `all_of_them` at the end.
    """
    if lost := LINES.taken_lost():
        structlog.get_logger().warning("log_lines_lost", lines=lost)
    for (level, event), lines, seconds in _bursts.ended(time.monotonic(), all_of_them=all_of_them):
        log = getattr(structlog.get_logger(), level, structlog.get_logger().warning)
        log("lines_left_out", of=event, lines=lines, seconds=round(seconds, 1))


def leave_out(_logger: object, _method: str, event: _Event) -> _Event:
    """A processor of structlog: drop a line of which there were many. One that ends the process stays."""
    level, name = str(event.get("level")), str(event.get("event"))
    if level == "critical" or name == "lines_left_out" or _bursts.admit((level, name), time.monotonic()):
        return event
    raise structlog.DropEvent


def mask(_logger: object, _method: str, event: _Event) -> _Event:
    """A processor of structlog: replace in `event` what must not be written."""
    for key, value in event.items():
        if key in _SECRET_KEYS:
            event[key] = "***"
        elif isinstance(value, int | float | None):
            continue
        else:
            text = value if isinstance(value, str) else str(value)
            event[key] = _CREDENTIALS.sub("***@", _NUMBER.sub("+***", text))
    return event


def with_priority(line: Any) -> Any:
    """`line`, a last processor of structlog, with the priority of its level before it."""

    def prefixed(logger: object, method: str, event: _Event) -> str:
        priority = PRIORITIES.get(event.get("level", "info"), 6)
        return f"<{priority}>{line(logger, method, event)}"

    return prefixed


def as_json_line(_logger: object, _method: str, event: _Event) -> str:
    """The last processor of structlog: an event as one line of JSON, text; what it is comes first."""
    first = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return msgspec.json.encode({**first, **event}).decode()


def as_text_line(_logger: object, _method: str, event: _Event) -> str:
    """`time level event key=value …`; an exception follows on lines of its own."""
    exception = event.pop("exception", None)
    line = as_one_text_line(_logger, _method, event)
    return f"{line}\n{exception}" if exception else line


def as_one_text_line(_logger: object, _method: str, event: _Event) -> str:
    """`time level event key=value …`, with an exception as one of the values."""
    moment, level, name = event.pop("timestamp", ""), event.pop("level", "-"), event.pop("event", "-")
    pairs = [f"{key}={_quoted(value)}" for key, value in event.items()]
    return " ".join([*([str(moment)] if moment else []), f"{level:<7}", _one_line(str(name)), *pairs])


def _quoted(value: object) -> str:
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    return '"' + _one_line(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n").replace("\r", "\\r")


class _Library(logging.Handler):
    """Takes what libraries log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log it as an event of ours, under the name of the library."""
        log = structlog.get_logger()
        write = log.error if record.levelno >= logging.ERROR else log.warning
        try:
            write("library", library=record.name, message=record.getMessage(), exc_info=record.exc_info)
        # Whatever is wrong with the record of a library must not end what it was about to do.
        except Exception:
            self.handleError(record)
