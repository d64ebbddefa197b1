"""Rule: which signal tells the supervisor from which level on the processes of a role are to log.

Each level of each role has a real-time signal of its own, so a wish arrives as a whole or not at all, and
nothing is left behind by whoever dies in between. There are more roles than there are signals for: the last
ones share theirs, and have the same level.
"""

from __future__ import annotations

import signal
from typing import get_args

from engine.config import ROLES, Role
from engine.logs.telemetry import Level

LEVELS: tuple[Level, ...] = get_args(Level)
# There are 30 real-time signals, so whoever means all roles sends one for each group.
_GROUPS_MAX = 30 // len(LEVELS)
_GROUPS: list[tuple[Role, ...]] = [
    *((role,) for role in ROLES[: _GROUPS_MAX - 1]),
    ROLES[_GROUPS_MAX - 1 :],
]
_WISHES = [(group, level) for group in _GROUPS for level in LEVELS]
# The numbers of the signals.
SIGNUMS = tuple(signal.SIGRTMIN + 1 + n for n in range(len(_WISHES)))
assert SIGNUMS[-1] <= signal.SIGRTMAX


def roles_with(role: Role) -> tuple[Role, ...]:
    """The roles whose level changes with that of this one, itself among them."""
    return next(group for group in _GROUPS if role in group)


def signums_of(role: Role | None, level: Level) -> list[int]:
    """The signals to send to the supervisor; None: for the processes of all roles."""
    return [SIGNUMS[_WISHES.index((group, level))] for group in _GROUPS if role is None or role in group]


def wish(signum: int) -> tuple[tuple[Role, ...], Level]:
    """(roles, level) of such a signal."""
    return _WISHES[SIGNUMS.index(signum)]
