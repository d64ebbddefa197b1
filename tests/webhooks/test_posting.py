"""Posting to servers that are nobody's friend: what they do is bounded, and private addresses are not
reached."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

from engine.hosts import resolving
from engine.hosts.webhook_urls import is_public, target_of
from engine.providers.http_client.pools import HttpPools
from tests.webhooks.receiver import OK, Receiver, Told, answer


async def posted(
    url: str, *, permitted: Callable[[str], bool] | None = None, timeout_s: float = 5.0
) -> tuple[int, str]:
    """What came of one request."""
    pools = HttpPools(connections=2, timeout_s=timeout_s, permitted=permitted)
    try:
        return await post(pools, url)
    finally:
        await pools.stop()


async def post(pools: HttpPools, url: str) -> tuple[int, str]:
    target = target_of(url)
    assert target is not None
    got: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
    pools.post(1, target, b"", b"{}", lambda status, reason: got.set_result((status, reason)))
    return await got


async def test_a_redirect_is_an_answer_and_is_not_followed(receiver: Receiver) -> None:
    async def redirect(told: Told, writer: asyncio.StreamWriter) -> bytes:
        return answer(307, b"Location: /elsewhere\r\n")

    receiver.answers = redirect
    assert await posted(receiver.url("/here")) == (307, "")
    assert [told.path for told in receiver.told] == ["/here"]


async def test_an_address_that_is_not_public_is_not_connected_to(receiver: Receiver) -> None:
    for host in ("127.0.0.1", "localhost"):
        assert await posted(receiver.url(host=host), permitted=is_public) == (0, "address-refused")
    assert receiver.connections == 0


async def test_a_name_that_becomes_private_is_not_connected_to_any_more(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the address that was looked at is the one that is connected to."""
    asked: list[str] = []
    addresses = ["127.0.0.1"]

    def found(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in addresses]

    def permitted(address: str) -> bool:
        asked.append(address)
        # From here on the name has another address.
        addresses[:] = ["127.0.0.2"]
        return len(asked) == 1

    monkeypatch.setattr(resolving.socket, "getaddrinfo", found)
    monkeypatch.setattr(resolving, "FRESH_S", 0.0)
    pools = HttpPools(connections=2, timeout_s=5.0, permitted=permitted)
    assert await post(pools, receiver.url(host="rebinds.example")) == (200, "")
    assert asked == ["127.0.0.1"]
    await pools.stop()
    pools = HttpPools(connections=2, timeout_s=5.0, permitted=permitted)
    assert await post(pools, receiver.url(host="rebinds.example")) == (0, "address-refused")
    assert asked == ["127.0.0.1", "127.0.0.2"]
    assert receiver.connections == 1
    await pools.stop()


async def test_a_name_with_one_private_address_among_others_is_refused(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in ("93.184.216.34", "127.0.0.1")
        ]

    monkeypatch.setattr(resolving.socket, "getaddrinfo", found)
    assert await posted(receiver.url(host="mixed.example"), permitted=is_public) == (0, "address-refused")
    assert receiver.connections == 0


async def test_an_answer_octet_by_octet_ends_with_the_time_out(receiver: Receiver) -> None:
    ended = asyncio.Event()

    async def slowly(told: Told, writer: asyncio.StreamWriter) -> bytes:
        try:
            for octet in OK * 1000:
                writer.write(bytes([octet]) if octet not in b"\r\n" else b"x")
                await writer.drain()
                await asyncio.sleep(0.01)
        finally:
            ended.set()
        return b""

    receiver.answers = slowly
    assert await posted(receiver.url(), timeout_s=0.3) == (0, "timeout")
    await ended.wait()


async def test_a_huge_answer_ends_the_request_when_it_is_too_large(receiver: Receiver) -> None:
    written = 0

    async def endlessly(told: Told, writer: asyncio.StreamWriter) -> bytes:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()
            written += 65_536

    receiver.answers = endlessly
    assert await posted(receiver.url()) == (0, "answer-too-large")
    # What is in the buffers of the sockets, and no more.
    assert written < 32 * 1024 * 1024
