"""Times as a command takes them: one with its time zone, or how far it is from now."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from engine.errors import ConfigError

_SPAN = re.compile(r"([1-9][0-9]{0,5})(m|h|d)")
_WAYS = {"ahead": "from now", "ago": "ago"}
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def time_of(text: str | None, option: str, way: Literal["ahead", "ago"]) -> datetime | None:
    """The time in an option such as `--expires`; None when it was not given.

    30d, 12h or 5m are so far ahead or ago. Raises ConfigError.
    """
    if text is None:
        return None
    try:
        if span := _SPAN.fullmatch(text):
            length = timedelta(**{_UNITS[span[2]]: int(span[1])})
            return datetime.now(UTC) + (length if way == "ahead" else -length)
        time = msgspec.convert(text, datetime)
        if time.tzinfo is not None:
            time.astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        # The years of a calendar are from 1 to 9999.
        time = None
    if time is None or time.tzinfo is None:
        raise ConfigError(
            f"{option} must be a time with its time zone, such as 2027-01-01T00:00:00Z, or such as 30d, 12h "
            f"or 5m: so far {_WAYS[way]}."
        )
    return time


def whole(time: datetime | None, step_s: int, *, up: bool) -> str:
    """The time on a whole step of `step_s` seconds, RFC 3339; "" for none. `up`: the next one, else the
    last."""
    if time is None:
        return ""
    past = timedelta(
        seconds=int(time.replace(microsecond=0).timestamp()) % step_s, microseconds=time.microsecond
    )
    rounded = time - past
    # After the last step of the calendar there is none.
    if up and past and rounded < datetime.max.replace(tzinfo=time.tzinfo) - timedelta(seconds=step_s):
        rounded += timedelta(seconds=step_s)
    return rounded.isoformat()


def period(since: str, until: str | None, step_s: int) -> tuple[str, str]:
    """The times of `--since` and `--until` on whole steps of `step_s` seconds, RFC 3339; "" for now.

    The period has all that was asked for in it. But one from whole days ago, until now or whole days ago, is
    as long as that, and ends with the step that has begun, as in the API without any time; otherwise none
    could be of the longest that there may be. Raises ConfigError.
    """
    of_days = all(text is None or _is_of_days(text, step_s) for text in (since, until))
    return (
        whole(time_of(since, "--since", "ago"), step_s, up=of_days),
        whole(time_of(until, "--until", "ago"), step_s, up=True),
    )


def _is_of_days(text: str, step_s: int) -> bool:
    """Whether it is a day ago or more, in whole steps."""
    span = _SPAN.fullmatch(text)
    length = timedelta(**{_UNITS[span[2]]: int(span[1])}) if span else timedelta()
    return length >= timedelta(days=1) and not length % timedelta(seconds=step_s)


def shown(time: datetime | None, without: str = "") -> str:
    """The time to the minute, in UTC; `without`: what stands for none."""
    return without if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M}"
