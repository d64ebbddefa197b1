"""What every adapter of ClickHouse begins with: its connections."""

from __future__ import annotations

import asyncio
from typing import Any

from engine.stores.clickhouse.client import connect, parse_url


class ClickHouseAdapter:
    """Connects at the first use, and again at the next one after `close`."""

    def __init__(self, url: str, timeout_s: float) -> None:
        """`timeout_s`: the deadline of each call, seconds. Raises ConfigError for a malformed URL."""
        self._url = parse_url(url)
        self._timeout_s = timeout_s
        self._client: Any = None
        self._connecting = asyncio.Lock()

    async def close(self) -> None:
        """Close the connections; the next call connects again."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _connected(self) -> Any:
        """The client. Raises Unavailable, ConfigError."""
        async with self._connecting:
            if self._client is None:
                self._client = await connect(
                    self._url, database=self._url.database, timeout_s=self._timeout_s
                )
            return self._client
