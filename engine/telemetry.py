"""Logs: one line for each event on stderr, as key=value or as JSON. They are configured here alone.

The text of a message, a telephone number and a secret are never written. Code that logs leaves
them out. When one gets in nevertheless, by the text of an exception for example, it is masked here.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import msgspec
import structlog

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


def configure_logs(as_json: bool, level: Level = "info") -> None:
    """Send all logs of this process, and of those forked from it, to stderr."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            mask,
            as_json_line if as_json else as_text_line,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        # stderr is looked up for each line, because the present one may be closed by then.
        logger_factory=lambda *_: structlog.WriteLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


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


def as_json_line(_logger: object, _method: str, event: _Event) -> str:
    """The last processor of structlog: an event as one line of JSON, text."""
    return msgspec.json.encode(event).decode()


def as_text_line(_logger: object, _method: str, event: _Event) -> str:
    """`time level event key=value …`; an exception follows on lines of its own."""
    time, level, name = event.pop("timestamp", "-"), event.pop("level", "-"), event.pop("event", "-")
    exception = event.pop("exception", None)
    pairs = [f"{key}={_quoted(value)}" for key, value in event.items()]
    line = " ".join([str(time), f"{level:<7}", str(name), *pairs])
    return f"{line}\n{exception}" if exception else line


def _quoted(value: object) -> str:
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
