"""How the engine connects to PostgreSQL: one reading of the URL and one way to connect, for everybody.

**Several hosts** (`postgresql://USER@H1:5432,H2:5432/DATABASE`). They are tried in order, beginning with
the one that answered last, each for its share of the time, so a machine that swallows packets does not
use up the time of the others. Without `target_session_attrs` in the URL only a server that takes writes
counts, which is the primary.

**A pooler** may stand before PostgreSQL. Then the process that the server names at the start is not the
one that answers. One that pools by session serves everything. One that pools by transaction gives each
transaction another session: locks of a session (the ledger's lead, a migration, an audit) then mean
nothing, so `confirm_session` refuses it. Connections that need no session (`session=False`) keep no
prepared statements behind a pooler, so the API's work goes through either.

Under failure: a connect ends within its time-out. Nothing is changed on the server.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg
from asyncpg.exceptions import InternalClientError

from engine.errors import ConfigError
from engine.stores.postgres.errors import Remedy, judged, translated

_ALLOWED = (
    "postgres.url must be a URL such as postgresql://USER:PASSWORD@HOST:5432/DATABASE; several hosts are "
    "named as HOST1:5432,HOST2:5432."
)
_NO_SESSION = (
    "`postgres.url` leads to a pooler that gives each transaction another session; set `pool_mode = session` "
    "for this database in the pooler (PgBouncer), or name PostgreSQL itself."
)
# HOST, HOST:PORT, [IPv6] or [IPv6]:PORT.
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.%]+\]|[^\[\]:]+)(?::([0-9]{1,5}))?")
# By URL: which of its hosts answered last, and whether a pooler did. They only save time.
_answered: dict[str, int] = {}
_behind_pooler: dict[str, bool] = {}


def urls_of(url: str) -> list[str]:
    """A URL for each host that `url` names, in order. Raises ConfigError; its text holds no password."""
    try:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    except ValueError as e:
        raise ConfigError(_ALLOWED) from e
    if parts.scheme not in ("postgresql", "postgres"):
        raise ConfigError(_ALLOWED)
    user, at, named = parts.netloc.rpartition("@")
    hosts = named.split(",") if named else _from_query(query)
    for host in hosts:
        found = _HOST.fullmatch(host)
        if found is None or (found[1] and not 0 < int(found[1]) < 65536):
            raise ConfigError(_ALLOWED)
    if len(hosts) < 2:
        return [url]
    query.setdefault("target_session_attrs", "read-write")
    return [urlunsplit(parts._replace(netloc=user + at + host, query=urlencode(query))) for host in hosts]


def _from_query(query: dict[str, str]) -> list[str]:
    """The hosts of `?host=H1,H2&port=5432`, which leave `query` when they are several."""
    hosts = query.get("host", "").split(",")
    if len(hosts) < 2:
        return []
    ports = query.get("port", "5432").split(",")
    del query["host"]
    query.pop("port", None)
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts):
        raise ConfigError(_ALLOWED)
    return [f"{host}:{port}" for host, port in zip(hosts, ports, strict=True)]


async def connect(
    url: str,
    *,
    timeout_s: float,
    command_timeout_s: float | None = None,
    name: str = "smsengine",
    settings: Mapping[str, str] | None = None,
    session: bool = True,
    **of_pool: Any,
) -> asyncpg.Connection:
    """A connection. Raises ConfigError for the URL, and else the errors of asyncpg and of the network.

    `timeout_s` bounds the connect with all hosts together, `command_timeout_s` each statement (None: no
    bound). `name` is shown in pg_stat_activity; `settings` are those of the session. `session`: whether
    the caller keeps anything in the session; see the module. `of_pool`: what asyncpg's pool passes on.
    """
    urls = urls_of(url)
    first, deadline_s = _answered.get(url, 0), time.monotonic() + timeout_s
    open_one = partial(
        _open, command_timeout_s=command_timeout_s, name=name, key=url, session=session, of_pool=of_pool
    )
    for turn in range(len(urls)):
        index = (first + turn) % len(urls)
        share_s = max(0.01, deadline_s - time.monotonic()) / (len(urls) - turn)
        try:
            connection = await open_one(urls[index], timeout_s=share_s)
            break
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, InternalClientError) as e:
            if turn == len(urls) - 1 or judged(e)[0] is not Remedy.WAIT:
                raise
    _answered[url] = index
    # A pooler refuses settings that it does not know when they come with the connect.
    try:
        if settings:
            sets = "; ".join(f"SET {setting} = '{value}'" for setting, value in settings.items())
            await connection.execute(sets, timeout=timeout_s)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def _open(
    url: str,
    *,
    timeout_s: float,
    command_timeout_s: float | None,
    name: str,
    key: str,
    session: bool,
    of_pool: Any,
) -> asyncpg.Connection:
    """Connect to one host, and find out whether a pooler answers."""
    async with asyncio.timeout(timeout_s):
        while True:
            keeps_statements = session or not _behind_pooler.get(key, False)
            connection = await asyncpg.connect(
                url,
                timeout=timeout_s,
                command_timeout=command_timeout_s,
                server_settings={"application_name": name},
                **of_pool,
                **({} if keeps_statements else {"statement_cache_size": 0}),
            )
            # In the simple protocol, because a pooler may lose prepared statements.
            found = await connection.execute(f"SELECT WHERE pg_backend_pid() = {connection.get_server_pid()}")
            _behind_pooler[key] = found != "SELECT 1"
            if session or keeps_statements != _behind_pooler[key]:
                return connection
            connection.terminate()


class _Stateless(asyncpg.Connection):  # type: ignore[misc]
    """A connection that keeps nothing in its session, so that giving it back to the pool costs no statement.

    A transaction that is open then is rolled back all the same.
    """

    def get_reset_query(self) -> str:
        """None, where asyncpg would drop locks, cursors and settings."""
        return ""


async def create_pool(url: str, *, connections_max: int, timeout_s: float, name: str) -> asyncpg.Pool:
    """A pool whose connections are made when they are needed, none of them now; they need no session.

    `timeout_s` bounds each connect and each statement. Raises ConfigError for the URL.
    """
    urls_of(url)

    async def open_for_pool(_dsn: None, **of_pool: Any) -> asyncpg.Connection:
        return await connect(
            url, timeout_s=timeout_s, command_timeout_s=timeout_s, name=name, session=False, **of_pool
        )

    return await asyncpg.create_pool(
        min_size=0, max_size=connections_max, connect=open_for_pool, connection_class=_Stateless
    )


async def confirm_session(url: str, timeout_s: float) -> None:
    """Confirm that a connection is one session, as locks need it. Raises ConfigError, Unavailable.

    One connection listens and then keeps silent while another one notifies it. A pooler that gives
    each transaction another session has given the listening one away by then, so nothing arrives.
    """
    channel, notified = f"smsengine_{secrets.token_hex(8)}", asyncio.Event()
    opened: list[asyncpg.Connection] = []
    try:
        with translated(in_full=True):
            for _ in range(2):
                opened.append(await connect(url, timeout_s=timeout_s, command_timeout_s=timeout_s))
            listening, other = opened
            try:
                await listening.add_listener(channel, lambda *_: notified.set())
            except (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError) as e:
                raise ConfigError(_NO_SESSION) from e
            await other.execute(f"NOTIFY {channel}")
        async with asyncio.timeout(timeout_s):
            await notified.wait()
    except TimeoutError as e:
        raise ConfigError(_NO_SESSION) from e
    finally:
        for connection in opened:
            connection.terminate()
