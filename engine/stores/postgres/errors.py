"""The errors of PostgreSQL, and of a pooler in front of it, as errors of the engine: one table.

Every adapter that talks to PostgreSQL does so inside `translated()`, so that one error means the
same everywhere. There are these kinds:

    WAIT   `Unavailable`   the same call may succeed later, and nobody has to do anything
    MEND   `ConfigError`   an operator must change something first
    END    `Broken`        our own SQL or our own books are wrong; also every error not in the table

and `Misfit`, a kind of `Broken`, for a value that PostgreSQL cannot hold.

Under failure. When a statement that writes raises `Unavailable`, nobody knows whether it took
effect: the connection may have broken in the commit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

import asyncpg
from asyncpg.exceptions import InternalClientError, UnsupportedServerFeatureError

# `asyncpg.DataError` comes from the server (class 22). This one is for values that asyncpg does not
# send, because they do not fit.
from asyncpg.exceptions._base import DataError

from engine.errors import Broken, ConfigError, Misfit, Unavailable

# `retry_after` for callers when an operator must act first, seconds.
MEND_RETRY_S = 5.0


class Remedy(Enum):
    """What must happen before the same call can succeed; see the module."""

    WAIT = "wait"
    MEND = "mend"
    END = "end"
    REFUSE = "refuse"


_SET_UP = "its tables are not of this version, run `smsengine migrate`"
_MISFIT = "a value does not fit its column"
_POOLER = "prepared statements get lost; a pooler before PostgreSQL must be set to `pool_mode = session`"

# (remedy, meaning) by SQLSTATE, or by its class, the first two characters; the longer one counts. The
# meaning completes "PostgreSQL cannot serve: ...". Appendix A of PostgreSQL's manual lists the codes.
BY_STATE: dict[str, tuple[Remedy, str]] = {
    # The connection broke or was not made. A pooler gives 08P01 for nearly everything that it refuses:
    # "server login failed", "no more connections allowed", "query_wait_timeout".
    "08": (Remedy.WAIT, "the connection was refused or lost"),
    # Data exceptions: a number that is too large, a text with U+0000. The transaction is rolled back.
    "22": (Remedy.REFUSE, _MISFIT),
    # A proxy has mixed up the connection; a new one works.
    "25P02": (Remedy.WAIT, "the transaction was given up"),
    # A standby, or a former primary right after a failover; later the URL leads to the new primary.
    "25006": (Remedy.WAIT, "it takes no writes now"),
    # The transaction idled or lasted longer than its limit, and was rolled back.
    "25P03": (Remedy.WAIT, "the transaction took too long"),
    "25P04": (Remedy.WAIT, "the transaction took too long"),
    # A pooler hands out connections by transaction, or has just replaced one. In the second case waiting
    # helps; in the first the operator reads in the sentence what to set.
    "26000": (Remedy.WAIT, _POOLER),
    "42P05": (Remedy.WAIT, _POOLER),
    # A migration altered a table while a statement was prepared; the next call prepares it anew.
    "0A000": (Remedy.WAIT, "its tables were changed just now, or it is too old"),
    # Wrong password, unknown role, no line in pg_hba.conf.
    "28": (Remedy.MEND, "it refuses the engine's login"),
    "3D000": (Remedy.MEND, "the database of `postgres.url` does not exist"),
    "42501": (Remedy.MEND, "the engine's role lacks a privilege"),
    # The database belongs to something else, or to an older version.
    "3F000": (Remedy.MEND, _SET_UP),
    "42P01": (Remedy.MEND, _SET_UP),
    "42703": (Remedy.MEND, _SET_UP),
    "42883": (Remedy.MEND, _SET_UP),
    # Serialization failures and deadlocks: this transaction was rolled back, the others went on.
    "40": (Remedy.WAIT, "the transaction gave way to another"),
    # Our own changes broke a deferred constraint.
    "40002": (Remedy.END, "a constraint does not hold"),
    # Disk full, out of memory, too many connections.
    "53": (Remedy.WAIT, "it has not enough memory, disk or connections"),
    # Another transaction holds a lock until it ends.
    "55006": (Remedy.WAIT, "another transaction is in the way"),
    "55P03": (Remedy.WAIT, "another transaction holds a lock for too long"),
    # The server starts, stops or crashed, or canceled the statement (also by statement_timeout).
    "57": (Remedy.WAIT, "it is starting, stopping, or canceled the statement"),
    "57P04": (Remedy.MEND, "the database of `postgres.url` was dropped"),
    # An error of the disk belongs to the machine, and may be gone after a failover.
    "58": (Remedy.WAIT, "its disk or its machine fails"),
}


def judged(error: Exception) -> tuple[Remedy, str]:
    """(remedy, meaning) of an error of asyncpg or of the network; see `BY_STATE`."""
    if isinstance(error, asyncpg.PostgresError):
        # An error without a state came from something other than PostgreSQL.
        state = error.sqlstate or "08"
        return BY_STATE.get(state) or BY_STATE.get(state[:2]) or (Remedy.END, "it refused a statement")
    if isinstance(error, asyncpg.ClientConfigurationError):
        return Remedy.MEND, "`postgres.url` or a file that it names cannot be used"
    if isinstance(error, asyncpg.UnsupportedClientFeatureError | UnsupportedServerFeatureError):
        return Remedy.MEND, "it wants or lacks a feature that the engine lacks or wants"
    if isinstance(error, DataError):
        # No column of this type can hold the value; our code should have checked it.
        return Remedy.REFUSE, _MISFIT
    # OSError, TimeoutError, a closed connection, bytes out of order, no server of the wanted kind.
    return Remedy.WAIT, "it cannot be reached or did not answer in time"


@contextmanager
def translated(*, in_full: bool = False) -> Iterator[None]:
    """Raise Unavailable, ConfigError, Misfit or Broken for errors of asyncpg and the network in this block.

    The original error is the cause of the one raised. `in_full`: an operator reads the text of
    `Unavailable`, so it repeats the text of the server. Otherwise a caller of the API may read it, so
    it has the code (SQLSTATE) alone.
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
        raise (Misfit if remedy is Remedy.REFUSE else Broken)(f"{sentence}: {text}.") from e
