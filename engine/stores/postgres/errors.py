"""PostgreSQL's errors, and those of a pooler before it, in the engine's terms: one table.

Every adapter that talks to PostgreSQL does so inside `translated()`, so that one error means the
same everywhere. There are three kinds:

    WAIT   `Unavailable`   the same call may succeed later, without anybody's doing
    MEND   `ConfigError`   an operator must change something first
    END    `Broken`        our own SQL or our own books are wrong; whatever is not in the table

Under failure. `Unavailable` from a statement that writes does not say whether it took effect:
the connection may have broken in the commit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

import asyncpg
from asyncpg.exceptions import InternalClientError, UnsupportedServerFeatureError

# `asyncpg.DataError` is the server's (class 22); this one is of values that do not reach it.
from asyncpg.exceptions._base import DataError

from engine.errors import Broken, ConfigError, Unavailable

# What a caller is told to wait before it asks again, when an operator must act first, seconds.
MEND_RETRY_S = 5.0


class Remedy(Enum):
    """What helps against an error."""

    WAIT = "wait"
    MEND = "mend"
    END = "end"


_SET_UP = "its tables are not of this version, run `smsengine migrate`"
_POOLER = "prepared statements get lost; a pooler before PostgreSQL must be set to `pool_mode = session`"

# By SQLSTATE, or by its class (the first two characters); the longer one counts. The text
# completes "PostgreSQL cannot serve: ...". Appendix A of PostgreSQL's manual lists the codes.
BY_STATE: dict[str, tuple[Remedy, str]] = {
    # The connection broke or was not made. A pooler says 08P01 for nearly all that it refuses: "server
    # login failed", "no more connections allowed", "query_wait_timeout".
    "08": (Remedy.WAIT, "the connection was refused or lost"),
    # A connection that a proxy has mixed up; a new one is in order.
    "25P02": (Remedy.WAIT, "the transaction was given up"),
    # A standby, or a primary that a failover has just made one; the URL leads to the new primary later.
    "25006": (Remedy.WAIT, "it takes no writes now"),
    # Limits on how long a transaction may idle or last: it was rolled back.
    "25P03": (Remedy.WAIT, "the transaction took too long"),
    "25P04": (Remedy.WAIT, "the transaction took too long"),
    # Behind a pooler that hands out connections by transaction or has just replaced one. To wait helps in
    # the second case, and in the first the sentence says what does.
    "26000": (Remedy.WAIT, _POOLER),
    "42P05": (Remedy.WAIT, _POOLER),
    # A table was altered (a migration) while the statement was prepared; it is prepared anew next time.
    "0A000": (Remedy.WAIT, "its tables were changed just now, or it is too old"),
    # Wrong password, unknown role, no line in pg_hba.conf.
    "28": (Remedy.MEND, "it refuses the engine's login"),
    "3D000": (Remedy.MEND, "the database of `postgres.url` does not exist"),
    "42501": (Remedy.MEND, "the engine's role lacks a privilege"),
    # Somebody else's database, or an older version's.
    "3F000": (Remedy.MEND, _SET_UP),
    "42P01": (Remedy.MEND, _SET_UP),
    "42703": (Remedy.MEND, _SET_UP),
    "42883": (Remedy.MEND, _SET_UP),
    # Serialization failures and deadlocks: rolled back, and others went ahead.
    "40": (Remedy.WAIT, "the transaction gave way to another"),
    # A deferred constraint that our own changes broke.
    "40002": (Remedy.END, "a constraint does not hold"),
    # Disk full, out of memory, too many connections: as long as it lasts.
    "53": (Remedy.WAIT, "it has not enough memory, disk or connections"),
    # Somebody else's lock, which ends with their transaction.
    "55006": (Remedy.WAIT, "another transaction is in the way"),
    "55P03": (Remedy.WAIT, "another transaction holds a lock for too long"),
    # Starting up, stopping, crashed, or the statement was canceled (statement_timeout, too).
    "57": (Remedy.WAIT, "it is starting, stopping, or canceled the statement"),
    "57P04": (Remedy.MEND, "the database of `postgres.url` was dropped"),
    # A disk's error is the machine's, and may be gone after a failover.
    "58": (Remedy.WAIT, "its disk or its machine fails"),
}


def judged(error: Exception) -> tuple[Remedy, str]:
    """What helps against an error of asyncpg or of the network, and what it means."""
    if isinstance(error, asyncpg.PostgresError):
        # What asyncpg does not know at all has no state: something else than PostgreSQL answered.
        state = error.sqlstate or "08"
        return BY_STATE.get(state) or BY_STATE.get(state[:2]) or (Remedy.END, "it refused a statement")
    if isinstance(error, asyncpg.ClientConfigurationError):
        return Remedy.MEND, "`postgres.url` must look like postgresql://USER:PASSWORD@HOST:5432/DATABASE"
    if isinstance(error, asyncpg.UnsupportedClientFeatureError | UnsupportedServerFeatureError):
        return Remedy.MEND, "it wants or lacks a feature that the engine lacks or wants"
    if isinstance(error, DataError):
        # A value that no column of this type can hold; whoever gave it should have checked it.
        return Remedy.END, "a value does not fit its column"
    # OSError, TimeoutError, a connection that closed, bytes out of step, no server of the wanted kind.
    return Remedy.WAIT, "it cannot be reached or did not answer in time"


@contextmanager
def translated(*, in_full: bool = False) -> Iterator[None]:
    """Raises Unavailable, ConfigError or Broken for what asyncpg and the network raise in this block.

    The error itself is the cause of what is raised. `in_full`: an operator reads the text of an
    `Unavailable`, so it repeats what the server said; else a caller of the API may, and it names
    the code (SQLSTATE) alone.
    """
    try:
        yield
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, InternalClientError) as e:
        remedy, meaning = judged(e)
        state = getattr(e, "sqlstate", None)
        sentence = f"PostgreSQL cannot serve: {meaning}" + (f" ({state})" if state else "")
        text = " ".join(str(e).split()).rstrip(".") or "no answer in time"
        if remedy is Remedy.WAIT:
            raise Unavailable(f"{sentence}: {text}." if in_full else f"{sentence}.") from e
        if remedy is Remedy.MEND:
            raise ConfigError(f"{sentence}: {text}.") from e
        raise Broken(f"{sentence}: {text}.") from e
