"""Connections to PostgreSQL for calls that come at any time, and its errors in our terms.

Under failure. `Unavailable` from a statement that writes means that nobody knows whether
it took effect (the connection may have broken in the commit). A caller that gives up has
its statement canceled and its transaction rolled back. Nothing is retried here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from engine.errors import ConfigError, Unavailable

# What passes: the server is away, starting, stopping, too busy, or a replica just now.
_PASSING = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,
)
# Interface errors that time will not mend, and so are not Unavailable.
_MISTAKEN = (
    asyncpg.exceptions._base.DataError,
    asyncpg.ClientConfigurationError,
    asyncpg.UnsupportedClientFeatureError,
)
# What an operator must mend; until then the same call may be tried again.
_TO_MEND = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
)


class Pool:
    """A few connections; made by `connect`, on the loop that uses it."""

    def __init__(self, connections: Any, timeout_s: float) -> None:
        self._connections = connections
        self._timeout_s = timeout_s

    @classmethod
    async def connect(cls, url: str, *, timeout_s: float = 3.0, connections_max: int = 4) -> Pool:
        """Does not fail because PostgreSQL is away: it is connected to when needed.

        A statement, a connect and the wait for a free connection end after `timeout_s`
        each. Raises ConfigError when the URL is none of PostgreSQL.
        """
        _check_url(url)
        connections = await asyncpg.create_pool(
            url,
            min_size=0,
            max_size=connections_max,
            timeout=timeout_s,
            command_timeout=timeout_s,
            server_settings={"application_name": "smsengine directory"},
        )
        return cls(connections, timeout_s)

    async def close(self) -> None:
        """Close the connections; those in use are cut after the time-out."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._connections.close()
        except TimeoutError:
            self._connections.terminate()

    async def ping(self) -> None:
        """Raises Unavailable when PostgreSQL does not answer."""
        async with self.connection() as connection:
            await connection.execute("SELECT 1")

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """A connection for this block. Raises Unavailable."""
        with translated():
            async with self._connections.acquire(timeout=self._timeout_s) as connection:
                yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        """A connection in a transaction, committed at the end of this block. Raises Unavailable."""
        async with self.connection() as connection, connection.transaction():
            yield connection


@contextmanager
def translated() -> Iterator[None]:
    """Errors of asyncpg and of the network as Unavailable; mistakes in our own calls stay as they are."""
    try:
        yield
    except _MISTAKEN:
        raise
    except _PASSING as e:
        raise Unavailable("PostgreSQL cannot be reached or did not answer in time.") from e
    except _TO_MEND as e:
        raise Unavailable("PostgreSQL refuses the engine, or its schema is not set up.", 5.0) from e


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("postgresql", "postgres") and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ConfigError("postgres.url must be a URL such as postgresql://HOST:PORT/DATABASE.")
