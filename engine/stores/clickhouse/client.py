"""Connections to the HTTP interface of ClickHouse, and its failures as errors of the engine."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import clickhouse_connect
import msgspec
from aiohttp import ClientError, ClientPayloadError, ServerDisconnectedError
from clickhouse_connect.driver.exceptions import ClickHouseError, ProgrammingError

from engine.clocks.round_trips import CLICKHOUSE, timed
from engine.errors import ConfigError, Unavailable
from engine.hosts.tls import TLS_FILES
from engine.stores.clickhouse.cluster import SETTINGS

# Codes of https://github.com/ClickHouse/ClickHouse/blob/master/src/Common/ErrorCodes.cpp
# for which an operator must act. All others are Unavailable: they may pass by themselves.
_TO_ACT_ON = {
    16: "a column is missing: run `smsengine migrate`",
    60: "a table is missing: run `smsengine migrate`",
    81: "the database is missing: run `smsengine migrate`",
    170: "it does not know the cluster of clickhouse.cluster",
    192: "the user is not known",
    193: "the password is wrong",
    164: "the user may only read, but the engine inserts and sets how an insert is stored",
    194: "a password is required",
    452: "the user may not change a setting",
    497: "the user may not do this",
    516: "the user or the password is wrong",
}


# Of these the server's own text names the grant or the setting.
_IN_FULL = (452, 497)
# The server ended a query at the bound that it was given for it.
_TOO_SLOW = 159
_REASON = re.compile(r"DB::Exception: (?:[^:]{1,100}: )?(.*?)(?:\. \([A-Z_]+\)|$)", re.DOTALL)


class TooSlow(Unavailable):
    """The server answers, and has ended a query that took longer than it may."""


class ClickHouseUrl(msgspec.Struct, frozen=True, kw_only=True):
    """One server's address and credentials."""

    # The URL without credentials, for error messages.
    shown: str
    host: str
    port: int
    tls: bool
    user: str
    password: str
    database: str
    # By the names of `engine.hosts.tls.TLS_FILES`.
    tls_files: dict[str, str]
    # The cluster on whose servers the tables are; "": it is one server.
    cluster: str = ""

    @property
    def is_here(self) -> bool:
        """Whether the server is on this machine, as far as the address says."""
        return self.host in ("localhost", "127.0.0.1", "::1")


def parse_url(url: str, name: str = "The ClickHouse URL") -> ClickHouseUrl:
    """Read http[s]://[user[:password]@]host[:port][/database].

    Raises ConfigError, which calls the URL `name`; its text never holds the password.
    """
    if len(url.split()) > 1:
        raise ConfigError(f"{name} must be one; clickhouse.urls may name several.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as e:
        raise ConfigError(f"{name} cannot be read: its port is malformed.") from e
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{name} must look like http://user:password@host:8123/database.")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    cluster = query.pop("cluster", "")
    if query.keys() - {*TLS_FILES} or parts.fragment:
        raise ConfigError(f"{name} must end with the database; settings are the engine's own.")
    tls = parts.scheme == "https"
    port = port or (8443 if tls else 8123)
    return ClickHouseUrl(
        shown=f"{parts.scheme}://{parts.hostname}:{port}",
        host=parts.hostname,
        port=port,
        tls=tls,
        user=unquote(parts.username or "default"),
        password=unquote(parts.password or ""),
        database=unquote(parts.path.strip("/")) or "default",
        tls_files=query,
        cluster=cluster,
    )


async def connect(url: ClickHouseUrl, *, database: str, timeout_s: float) -> Any:
    """An AsyncClient of clickhouse_connect. Raises Unavailable, ConfigError."""
    async with answering(url, timeout_s):
        return await clickhouse_connect.get_async_client(
            interface="https" if url.tls else "http",
            host=url.host,
            port=url.port,
            username=url.user,
            password=url.password,
            database=database,
            connect_timeout=min(5.0, timeout_s),
            send_receive_timeout=timeout_s,
            # A session allows one request at a time only.
            autogenerate_session_id=False,
            query_retries=0,
            tz_source="server",
            settings=dict(SETTINGS) if url.cluster else None,
            **_tls(url),
        )


def _tls(url: ClickHouseUrl) -> dict[str, Any]:
    """The files of TLS as arguments of clickhouse_connect."""
    names = {"tls_ca_file": "ca_cert", "tls_cert_file": "client_cert", "tls_key_file": "client_cert_key"}
    arguments: dict[str, Any] = {names[setting]: file for setting, file in url.tls_files.items()}
    if "client_cert" in arguments:
        # With a password the certificate only opens the connection; without one it is who we are.
        arguments["tls_mode"] = "strict" if url.password else "mutual"
    return arguments


@asynccontextmanager
async def answering(url: ClickHouseUrl, timeout_s: float) -> AsyncIterator[None]:
    """Give this block a deadline; raise its failures as Unavailable or ConfigError.

    Of a query that the server has ended for its time they are TooSlow. After `timeout_s` nobody knows whether
    the server is slow or away, so that is a plain Unavailable.
    """
    try:
        with timed(CLICKHOUSE):
            async with asyncio.timeout(timeout_s):
                yield
    except TimeoutError as e:
        raise Unavailable(f"ClickHouse at {url.shown} gives no answer within {timeout_s:g} s.") from e
    except ClickHouseError as e:
        code = getattr(e, "code", None)
        if code in _TO_ACT_ON:
            what = _TO_ACT_ON[code]
            if code in _IN_FULL:
                what += f" ({_reason(e)})"
            raise ConfigError(f"ClickHouse at {url.shown} refuses: {what}.") from e
        if code == _TOO_SLOW:
            raise TooSlow(f"ClickHouse at {url.shown} has ended a query that took too long.") from e
        if isinstance(e, ProgrammingError):
            # Without a request: the client knows from the server that a setting cannot be changed.
            raise ConfigError(f"ClickHouse at {url.shown} cannot be used: {_sentence(e)}.") from e
        if (reason := _unreached(e)) is not None:
            raise Unavailable(f"ClickHouse at {url.shown} cannot be reached: {reason}.") from e
        raise Unavailable(f"ClickHouse at {url.shown} fails: {_sentence(e)}.") from e
    except (OSError, ClientError) as e:
        raise Unavailable(
            f"ClickHouse at {url.shown} cannot be reached: {_unreached(e) or _sentence(e)}."
        ) from e


def _unreached(error: BaseException) -> str | None:
    """Why the connection could not be made or broke, in the system's words; None when it is neither."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ConnectionRefusedError):
            return "nothing listens there"
        # aiohttp's own are errors of the system too, and have the system's behind them.
        is_systems = not isinstance(seen, ClientError)
        if isinstance(seen, ssl.SSLCertVerificationError) and is_systems:
            return f"its certificate is not trusted ({seen.verify_message}), see clickhouse.tls_ca_file"
        if isinstance(seen, ssl.SSLError) and is_systems:
            return "TLS does not come about"
        if isinstance(seen, ServerDisconnectedError | ConnectionResetError | ClientPayloadError):
            return "it closed the connection"
        if isinstance(seen, socket.gaierror):
            return "its name is not known"
        if isinstance(seen, TimeoutError):
            return "no answer in time"
        if isinstance(seen, OSError) and is_systems:
            return (seen.strerror or _sentence(seen)).lower()
        seen = seen.__cause__
    return None


def _reason(error: Exception) -> str:
    """What the server itself says, without the user's name and its version."""
    found = _REASON.search(str(error))
    return " ".join(found[1].split())[:300].rstrip(".") if found else _sentence(error)


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")
