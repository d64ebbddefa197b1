"""Every error of the engine, as one tree ordered by who must act.

`Refusal`       the caller: the request cannot be honoured as it stands.
`Unavailable`   nobody but time: the same request may succeed later. `Full` is one: Redis has
                little memory left.
`ConfigError`   the operator: a setting, a port, a disk, a server.
`Fenced`        the holder itself: its epoch is over, it must register anew.
`Broken`        us: an invariant does not hold; the process stops.

Adapters translate the errors of their libraries at the border, with `from`.
"""

from __future__ import annotations

from http import HTTPStatus


class EngineError(Exception):
    """Base of all errors below; its text is one plain sentence."""


class Refusal(EngineError):
    """The caller's request is refused.

    `code` is stable and machine-readable, `status` the HTTP status, `field` the
    part of the request that is wrong (a JSON pointer without the leading slash).
    """

    def __init__(self, code: str, status: int, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.status = HTTPStatus(status)
        self.detail = detail
        self.field = field


class Unavailable(EngineError):
    """A part that is needed cannot be reached; try again after `retry_after` seconds."""

    def __init__(self, detail: str, retry_after: float = 1.0) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after


class Full(Unavailable):
    """Redis has little memory left and takes nothing new; what was refused changed nothing."""


class ConfigError(EngineError):
    """The operator must change something; the text names what and what is allowed."""


class Fenced(EngineError):
    """The holder's epoch is over in at least one shard."""


class Broken(EngineError):
    """An invariant does not hold. Never caught: the process ends and is replaced."""
