"""ClickHouse's engine in this process: connections, sessions, reads in parts, inserts.

The import of chdb starts threads, and a process forked after that hangs. So chdb is imported
when an `Engine` is made, in a process that was started for it by exec, and nowhere else.

All calls block and belong on a worker thread; the engine releases the GIL while it works. A
connection serves one request, except in a session, whose requests share one.

Killed at any point: an insert of one block (at most 1,048,449 rows) is there as a whole or not
at all; sent again with its `insert_deduplication_token` it is there once.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.hosts.cpu_turns import give_way
from supervisor.embedded.clickhouse.protocol import (
    QUERY_IS_TOO_LARGE,
    READONLY,
    SESSION_IS_LOCKED,
    SESSION_NOT_FOUND,
    STREAMABLE,
    TOO_MANY_SIMULTANEOUS_QUERIES,
    Call,
    Failed,
    Statement,
    engine_failed,
    failed,
)

SESSIONS_MAX = 500
# Most bytes of the rows of one insert: they are held in memory until the engine has read them.
INSERT_BYTES_MAX = 1 << 29
# Connections that are kept for the next request with the same database and settings.
IDLE_MAX = 8

# The name of its threads that merge and mutate parts.
_MERGING = "MergeMutate"
# They have it after this long at the latest, seconds.
_NAMED_S = 1.0
# The engine's caches of what it has read from the disk.
_CACHES = ("mark_cache_size", "primary_index_cache_size", "index_mark_cache_size")

# The database and the settings of a connection.
_Setting = tuple[str, tuple[tuple[str, str], ...]]


@dataclass
class _Session:
    connection: Any
    used_at: float
    expires_s: int
    busy: bool = False
    # Settings of the last request, which hold for that request only.
    applied: set[str] = field(default_factory=set)


class Engine:
    """The one engine of this process, on one directory."""

    def __init__(self, path: Path, memory_bytes_max: int) -> None:
        # When another process has the directory, `connect` raises an error that names its lock.
        from chdb.state.sqlitelike import connect

        self._connect = connect
        # By default its caches may grow to several times this.
        limits = {"max_server_memory_usage": memory_bytes_max}
        limits |= dict.fromkeys(_CACHES, memory_bytes_max // 16)
        self._path = f"{path}?{'&'.join(f'{name}={value}' for name, value in limits.items())}"
        # The engine ends with its last connection; this one keeps it alive.
        self._root = connect(self._path)
        self._merge_later()
        self._lock = threading.Lock()
        self._sessions: dict[str, _Session] = {}
        # Connections of reads that have ended, by database and settings; the oldest first.
        self._idle: list[tuple[_Setting, Any]] = []
        self.version, self.timezone = (
            self._root.query("SELECT version(), timezone()", "TabSeparated")
            .bytes()
            .decode()
            .strip()
            .split("\t")
        )

    def _merge_later(self) -> None:
        """Let the threads that merge parts compute after the others: nobody waits for them."""
        connection = self._connect(self._path)
        try:
            # They begin with the first table of this kind.
            connection.query(
                "CREATE TEMPORARY TABLE t (n UInt8) ENGINE = MergeTree ORDER BY n", "TabSeparated"
            )
        finally:
            connection.close()
        until = time.monotonic() + _NAMED_S
        while not (merging := _threads_named(_MERGING)) and time.monotonic() < until:
            time.sleep(0.005)
        for thread_id in merging:
            give_way(thread_id)

    def open(self, call: Call) -> Lease:
        """A connection with the database, settings and parameters of this request. Raises Failed."""
        # A session could never take `readonly` back, so such a request has a connection of its own.
        session = self._enter(call) if call.session and "readonly" not in call.settings else None
        setting = (call.database, tuple(sorted(call.settings.items())))
        if session is None and (idle := self._take_idle(setting)) is not None:
            return Lease(self, idle, None, setting)
        connection = session.connection if session is not None else self._connect(self._path)
        lease = Lease(self, connection, session, setting)
        try:
            lease.apply(call)
        except BaseException:
            lease.close()
            raise
        return lease

    def _enter(self, call: Call) -> _Session:
        now = time.monotonic()
        with self._lock:
            idle = {k: s for k, s in self._sessions.items() if not s.busy}
            self._drop(k for k, s in idle.items() if now - s.used_at > s.expires_s)
            session = self._sessions.get(call.session)
            if session is None:
                if call.session_check:
                    raise failed(SESSION_NOT_FOUND, "Session not found")
                if len(self._sessions) >= SESSIONS_MAX:
                    self._drop_oldest()
                session = _Session(self._connect(self._path), now, call.session_s)
                self._sessions[call.session] = session
            if session.busy:
                raise failed(SESSION_IS_LOCKED, f"Session {call.session} is locked by a concurrent client")
            session.busy = True
            session.expires_s = call.session_s
            return session

    def _drop(self, keys: Iterable[str]) -> None:
        for key in list(keys):
            self._sessions.pop(key).connection.close()

    def _drop_oldest(self) -> None:
        idle = [k for k, s in self._sessions.items() if not s.busy]
        if not idle:
            raise failed(TOO_MANY_SIMULTANEOUS_QUERIES, f"Too many sessions; at most {SESSIONS_MAX}")
        self._drop([min(idle, key=lambda k: self._sessions[k].used_at)])

    def _take_idle(self, setting: _Setting) -> Any:
        with self._lock:
            for i, (idle, connection) in enumerate(self._idle):
                if idle == setting:
                    del self._idle[i]
                    return connection
        return None

    def leave(self, lease: Lease, *, unchanged: bool) -> None:
        """Take back the connection of a request that has ended; a session keeps it open, and so does one
        that is `unchanged`, for the next request like it."""
        with self._lock:
            if lease.session is None:
                if not unchanged:
                    lease.connection.close()
                    return
                self._idle.append((lease.setting, lease.connection))
                if len(self._idle) > IDLE_MAX:
                    self._idle.pop(0)[1].close()
            else:
                lease.session.used_at = time.monotonic()
                lease.session.busy = False

    def close(self) -> None:
        """End the engine; no request may be under way."""
        with self._lock:
            for session in self._sessions.values():
                session.connection.close()
            self._sessions.clear()
            for _, connection in self._idle:
                connection.close()
            self._idle.clear()
        self._root.close()


class Lease:
    """A connection while one request uses it."""

    def __init__(self, engine: Engine, connection: Any, session: _Session | None, setting: _Setting) -> None:
        self._engine = engine
        self.connection = connection
        self.session = session
        self.setting = setting
        self._closed = False

    def apply(self, call: Call) -> None:
        """Set the database and the settings of this request. Raises Failed."""
        if call.database:
            self._run(f"USE {_identifier(call.database)}")
        settings = dict(call.settings)
        readonly = settings.pop("readonly", None)
        changes = [f"{_identifier(name)} = {_literal(value)}" for name, value in settings.items()]
        if self.session is not None:
            stale = self.session.applied - settings.keys()
            changes += [f"{_identifier(name)} = DEFAULT" for name in sorted(stale)]
            self.session.applied = set(settings)
        # By SET, because in the connection string the engine ignores names it does not know.
        if changes:
            self._run(f"SET {', '.join(changes)}")
        # Last, because nothing can be set after it.
        if readonly is not None:
            self._run(f"SET readonly = {_literal(readonly)}")

    def _run(self, sql: str) -> None:
        with _translated():
            self.connection.query(sql, "TabSeparated")

    def execute(self, statement: Statement, call: Call) -> tuple[int, bytes]:
        """Run the statement: (rows written, whole result; b"" for commands). Raises Failed."""
        with _translated():
            result = self.connection.query(
                statement.sql, statement.format or call.default_format, params=dict(call.parameters)
            )
        return result.rows_written(), result.bytes()

    def read(self, statement: Statement, call: Call) -> Result:
        """Run the statement; the result comes in parts if it and its format allow that. Raises Failed."""
        if statement.streams and (statement.format or call.default_format).lower() in STREAMABLE:
            try:
                with _translated():
                    stream = self.connection.send_query(
                        statement.sql, statement.format or call.default_format, params=dict(call.parameters)
                    )
                return Result(stream, None)
            except Failed as e:
                if "Streaming query is not supported" not in e.text:
                    raise
        return Result(None, self.execute(statement, call)[1])

    def insert(self, statement: Statement, call: Call) -> Insert:
        """Begin an insert of rows in `statement.format`. Raises Failed."""
        for name, value in call.parameters.items():
            self._run(f"SET {_identifier('param_' + name)} = {_literal(value)}")
        return Insert(self.connection, statement)

    def close(self, *, unchanged: bool = False) -> None:
        """Give the connection back. Idempotent. `unchanged`: it has only read, and to the end."""
        if not self._closed:
            self._closed = True
            self._engine.leave(self, unchanged=unchanged)


class Result:
    """A result that is read part by part."""

    def __init__(self, stream: Any, whole: bytes | None) -> None:
        self._stream = stream
        self._whole = whole

    def part(self) -> bytes | None:
        """The next part, None after the last. Raises Failed."""
        if self._stream is None:
            whole, self._whole = self._whole, None
            return whole or None
        with _translated():
            fetched = self._stream.fetch()
        return None if fetched is None else fetched.bytes()

    def cancel(self) -> None:
        """End a result whose parts are not all read; without effect on one that has ended."""
        if self._stream is not None:
            with contextlib.suppress(RuntimeError):
                self._stream.cancel()


class Insert:
    """An insert under way. It ends with `finish`, which commits it, or else must end with `cancel`.

    The rows are gathered in a file in memory, and the engine reads them from there. It could take them part
    by part too (`send_insert` of chdb), but then it reports no error of the table that they go to: a full
    disk, or too many parts, would look like a success.
    """

    def __init__(self, connection: Any, statement: Statement) -> None:
        self._connection = connection
        self._statement = statement
        self._bytes = 0
        self._rows = os.memfd_create("rows", os.MFD_CLOEXEC)

    def append(self, data: bytes) -> None:
        """Add bytes of the rows, cut anywhere. Raises Failed."""
        self._bytes += len(data)
        if self._bytes > INSERT_BYTES_MAX:
            raise failed(QUERY_IS_TOO_LARGE, f"The rows are larger than {INSERT_BYTES_MAX} bytes.")
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._rows, rest) :]

    def finish(self) -> int:
        """Commit the rows; the number written, with those of materialised views.

        Raises Failed; then nothing of the block was written.
        """
        of = self._statement
        # Its offset belongs to the open file, so also to whoever opens it by this name.
        os.lseek(self._rows, 0, os.SEEK_SET)
        rows = f"/proc/self/fd/{self._rows}"
        sql = f"{of.sql} FROM INFILE {_literal(rows)} {of.settings} FORMAT {of.format}"
        try:
            with _translated():
                return int(self._connection.query(sql, "TabSeparated").rows_written())
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Drop the rows; without effect on an insert that has ended."""
        if self._rows >= 0:
            os.close(self._rows)
            self._rows = -1


def _threads_named(name: str) -> list[int]:
    """The threads of this process that have this name."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        # One that ends meanwhile has no name any more.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if (task / "comm").read_text().strip() == name:
                found.append(int(task.name))
    return found


def refuse_writes(statement: Statement) -> None:
    """Raise Failed for a statement that does not only read: GET may only read, as on a server."""
    if statement.kind != "read":
        raise failed(
            READONLY,
            "Cannot execute query in readonly mode. For queries over HTTP, method GET implies readonly.",
        )


@contextlib.contextmanager
def _translated() -> Any:
    try:
        yield
    except RuntimeError as e:
        raise engine_failed(str(e)) from e


def _identifier(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _literal(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
