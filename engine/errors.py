"""The errors of the engine, by who must act.

`Refusal`       the caller: the request cannot be carried out as it is. `TooMany` is one: it can be, later.
`Unavailable`   nobody: the same request may succeed later. `Full` is one: Redis has little
                memory left. `Closed` is one: an operator wishes that nothing new is taken. `Undecided`
                is one: it may have taken effect nevertheless.
`ConfigError`   the operator: a setting, a port, a disk, a server.
`Fenced`        the holder itself: its epoch is over, and it must register anew.
`Broken`        we: an invariant does not hold, and the process stops. `Misfit` is one: of a request, it
                costs that request alone.

Adapters turn the errors of their libraries into these, with `raise ... from`.
"""

from __future__ import annotations

import re
from http import HTTPStatus

# "at" a server: a URL as it is shown, or a host and a port.
_ADDRESS = re.compile(r" at (?:[a-z+]+://\S*[^\s.,;:]|\S+:[0-9]+)")


class EngineError(Exception):
    """Base of all errors below. Its text is one plain sentence."""


class Refusal(EngineError):
    """The caller's request is refused.

    `code` is a stable name for programs, `status` the HTTP status. `field` is the part of the
    request that is wrong, as a JSON pointer (RFC 6901) without the leading slash.
    """

    def __init__(self, code: str, status: int, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.status = HTTPStatus(status)
        self.detail = detail
        self.field = field


class TooMany(Refusal):
    """A 429: an organisation asks for more than a limit of it allows; the same request may succeed later.

    `limit` is its name and `quota` what it allows, in `window_s` seconds; 0: at any time. `remaining` is
    left of that. After `retry_after_s` seconds there may be room for the request.
    """

    def __init__(
        self, code: str, detail: str, limit: str, *, quota: float, window_s: int, remaining: float,
        retry_after_s: float,
    ) -> None:  # fmt: skip
        super().__init__(code, 429, detail)
        self.limit = limit
        self.quota = quota
        self.window_s = window_s
        self.remaining = remaining
        self.retry_after_s = retry_after_s


class Unavailable(EngineError):
    """A part that is needed cannot be reached; try again after `retry_after` seconds."""

    def __init__(self, detail: str, retry_after: float = 1.0) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after

    @property
    def public(self) -> str:
        """`detail` without the addresses of servers, for those who do not operate them."""
        return _ADDRESS.sub("", self.detail)


class Full(Unavailable):
    """Redis has little memory left and admits nothing new. A call that was refused changed nothing."""


class Closed(Unavailable):
    """Nothing new is taken here because an operator wishes so. `code` is a stable name for programs."""

    def __init__(self, code: str, detail: str, retry_after: float) -> None:
        super().__init__(detail, retry_after)
        self.code = code


class Undecided(Unavailable):
    """It is not known whether the request took effect, and it will not be found out for this caller."""


class ConfigError(EngineError):
    """The operator must change something. The text names what, and what is allowed."""


class Fenced(EngineError):
    """The holder's epoch is over in at least one shard."""


class Broken(EngineError):
    """An invariant does not hold. Nobody catches it: the process ends and is replaced."""


class Misfit(Broken):
    """A store cannot hold a value, and has changed nothing.

    The value of a request should have been refused before. It costs that request an answer 500, and nobody
    else anything. A value that the engine made itself is an invariant that does not hold.
    """
