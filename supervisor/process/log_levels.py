"""Rule: which signal tells the supervisor from which level on the processes of a role are to log.

Each level of each role has a real-time signal of its own, so a wish arrives as a whole or not at all, and
nothing is left behind by whoever dies in between. There are thirty of them on Linux, enough for seven roles.
"""

from __future__ import annotations

import signal
from typing import get_args

from engine.config import ROLES, Role
from engine.telemetry import Level

LEVELS: tuple[Level, ...] = get_args(Level)
_WISHES = [(role, level) for role in ROLES for level in LEVELS]
# The numbers of the signals.
SIGNUMS = tuple(signal.SIGRTMIN + 1 + n for n in range(len(_WISHES)))


def signum_of(role: Role, level: Level) -> int:
    """The signal to send to the supervisor."""
    return SIGNUMS[_WISHES.index((role, level))]


def wish(signum: int) -> tuple[Role, Level]:
    """(role, level) of such a signal."""
    return _WISHES[SIGNUMS.index(signum)]
