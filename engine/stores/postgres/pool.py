"""Connections to PostgreSQL for the calls of an API process, which come at any time.

Under failure. When a statement that writes raises `Unavailable`, nobody knows whether it took
effect: the connection may have broken in the commit. When a caller gives up, its statement is
canceled and its transaction rolled back. Nothing is tried again here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from engine.clocks.round_trips import POSTGRES, timed
from engine.errors import ConfigError, Unavailable
from engine.stores.postgres.connection import create_pool
from engine.stores.postgres.errors import MEND_RETRY_S, translated

# LOCAL: it holds for this transaction alone, because others use the connection afterwards.
_IDLE_MAX = "SET LOCAL idle_in_transaction_session_timeout = {}"


class Pool:
    """A few connections. Made by `connect`, on the loop that uses it."""

    def __init__(self, connections: Any, timeout_s: float) -> None:
        self._connections = connections
        self._timeout_s = timeout_s

    @classmethod
    async def connect(cls, url: str, *, timeout_s: float = 3.0, connections_max: int = 4) -> Pool:
        """A pool of at most `connections_max` connections, which are made when they are needed.

        So this does not fail when PostgreSQL is away. A statement, a connect and the wait for a free
        connection end after `timeout_s` seconds each. Raises ConfigError when the URL is not one of
        PostgreSQL.
        """
        connections = await create_pool(
            url, connections_max=connections_max, timeout_s=timeout_s, name="smsengine directory"
        )
        return cls(connections, timeout_s)

    async def close(self) -> None:
        """Close the connections; those still in use after the time-out are cut."""
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
        """A connection for this block. Raises Unavailable, Broken.

        An error that an operator must mend is Unavailable here too, because a running role goes on
        with what it knows until then. `smsengine up` raises it as a ConfigError when it migrates.
        """
        try:
            with translated(), timed(POSTGRES):
                async with self._connections.acquire(timeout=self._timeout_s) as connection:
                    yield connection
        except ConfigError as e:
            # Without the text of the server, because callers of the API see this.
            detail = "PostgreSQL refuses the engine, or its schema is not set up."
            raise Unavailable(detail, MEND_RETRY_S) from e

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        """A connection in a transaction, which is committed at the end of this block.

        Raises Unavailable, Broken. Frozen in this block: PostgreSQL rolls it back when no statement
        has come for the time-out, so that its locks hold up nobody any longer.
        """
        async with self.connection() as connection, connection.transaction():
            await connection.execute(_IDLE_MAX.format(round(self._timeout_s * 1000)))
            yield connection
