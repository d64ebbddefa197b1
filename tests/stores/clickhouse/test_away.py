"""What is said of a ClickHouse that cannot be reached: one plain sentence, without the words of libraries."""

from __future__ import annotations

import asyncio
import re
import socket

import pytest

from engine.errors import Unavailable
from engine.stores.clickhouse.client import connect, parse_url


async def said_of(url: str) -> str:
    """The sentence that connecting to `url` ends with."""
    with pytest.raises(Unavailable) as failed:
        await connect(parse_url(url), database="default", timeout_s=60)
    return str(failed.value)


async def test_a_server_that_is_away_is_told_in_plain_words() -> None:
    with socket.socket() as bound:
        # Bound, and nobody listens.
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        assert await said_of(url) == f"ClickHouse at {url} cannot be reached: nothing listens there."


@pytest.mark.parametrize(("scheme", "why"), [("http", "it closed the connection"), ("https", "TLS .*")])
async def test_a_server_that_hangs_up_is_told_in_plain_words(scheme: str, why: str) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        if scheme == "https":
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert re.fullmatch(f"ClickHouse at {url} cannot be reached: {why}\\.", await said_of(url))
