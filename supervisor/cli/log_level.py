"""`smsengine log-level`: have the running processes of this node log from another level on."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from engine.config import ROLES
from engine.errors import ConfigError, EngineError
from supervisor.datadir import DataDir
from supervisor.process import log_levels, snapshot
from supervisor.process.log_levels import LEVELS

T = TypeVar("T")

_LOOK_S = 0.05
_TIMEOUT_S = 10.0


class NotChanged(EngineError):
    """Not every process logs from the level that was asked for; the text says which."""


class ChangedLevel(msgspec.Struct, frozen=True, kw_only=True):
    """One process, and from which level on it logged before and logs now."""

    role: str
    index: int
    was: str
    level: str


def change_level(data_dir: Path, level: str, role: str = "") -> list[ChangedLevel]:
    """Tell the supervisor of the data directory, and wait until the processes that run now have it.

    `role`: "" for all; some roles have their level together (`log_levels`). Raises ConfigError when there is
    no such level or role, no engine runs there, it stops, or it is another user's; NotChanged when some
    process has not said so within `_TIMEOUT_S`. Killed in between: the level of some roles changes, and of
    others it does not.
    """
    wanted = _one_of("ROLE", role, ROLES) if role else None
    signums = log_levels.signums_of(wanted, _one_of("LEVEL", level, LEVELS))
    roles = log_levels.roles_with(wanted) if wanted else ROLES
    path = snapshot.path_in(data_dir)
    before = snapshot.read(path)
    if before is None or before.stopping:
        raise DataDir(data_dir).absence()
    try:
        for signum in signums:
            os.kill(before.supervisor_pid, signum)
    except OSError as e:
        raise ConfigError(
            f"The engine (process {before.supervisor_pid}) takes no signal: {e.strerror}."
        ) from e
    changed = [row for row in before.processes if row.pid and row.role in roles]
    deadline = time.monotonic() + _TIMEOUT_S
    while late := _without(changed, snapshot.read(path), level):
        if time.monotonic() > deadline:
            names = ", ".join(f"{row.role} {row.index}" for row in late)
            raise NotChanged(f"{names} did not take the level within {_TIMEOUT_S:g} s.")
        time.sleep(_LOOK_S)
    return [ChangedLevel(role=r.role, index=r.index, was=r.log_level, level=level) for r in changed]


def _one_of(what: str, given: str, allowed: Sequence[T]) -> T:
    for one in allowed:
        if one == given:
            return one
    raise ConfigError(f"{what} must be one of {', '.join(map(str, allowed))}, not {given!r}.")


def _without(
    changed: list[snapshot.ProcessRow], now: snapshot.Processes | None, level: str
) -> list[snapshot.ProcessRow]:
    """Those that run still and have not said that they log from `level` on."""
    have = {row.pid: row.log_level for row in now.processes} if now else {}
    return [row for row in changed if have.get(row.pid, level) != level]
