"""Looking names up: one that hangs holds up no other, and costs one thread."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest

from engine.hosts import resolving
from engine.hosts.resolving import Names

ADDRESS = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))


class NameServers:
    """What getaddrinfo(3) finds: `hanging` names wait for `answer`, the others are found at once."""

    def __init__(self) -> None:
        self.hanging: set[str] = set()
        self.answer = threading.Event()
        self.error: Exception | None = None
        self.asked: list[str] = []

    def look_up(self, host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        self.asked.append(host)
        if host in self.hanging:
            self.answer.wait(20)
        if self.error is not None:
            raise self.error
        return [ADDRESS]


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServers]:
    servers = NameServers()
    monkeypatch.setattr(resolving.socket, "getaddrinfo", servers.look_up)
    yield servers
    servers.answer.set()


def look_ups() -> int:
    return sum(thread.name.startswith("look-up of") for thread in threading.enumerate())


async def test_names_that_hang_hold_up_no_other_and_cost_a_thread_each(servers: NameServers) -> None:
    names = Names()
    servers.hanging = {f"hangs{n}.example" for n in range(8)}
    waiting = [
        asyncio.create_task(names.addresses(host, 80)) for host in sorted(servers.hanging) for _ in range(10)
    ]
    assert await names.addresses("works.example", 80) == [ADDRESS]
    assert look_ups() == 8
    for one in waiting[:40]:
        one.cancel()
    servers.answer.set()
    assert await asyncio.gather(*waiting[40:]) == [[ADDRESS]] * 40
    assert len(servers.asked) == 9


async def test_who_knows_an_address_goes_on_with_it_while_the_name_servers_hang(
    servers: NameServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names()
    await names.addresses("carrier.example", 80)
    await names.addresses("carrier.example", 80)
    assert len(servers.asked) == 1, "an answer is good for a while"
    monkeypatch.setattr(resolving, "FRESH_S", 0.0)
    monkeypatch.setattr(resolving, "PATIENCE_S", 0.01)
    servers.hanging = {"carrier.example"}
    for _ in range(3):
        assert await names.addresses("carrier.example", 80) == [ADDRESS]
    assert len(servers.asked) == 2, "one look-up is under way"


async def test_name_servers_that_fail_change_nothing_and_a_name_that_is_gone_is_an_error(
    servers: NameServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names()
    monkeypatch.setattr(resolving, "FRESH_S", 0.0)
    await names.addresses("carrier.example", 80)
    servers.error = socket.gaierror(socket.EAI_AGAIN, "try again")
    assert await names.addresses("carrier.example", 80) == [ADDRESS]
    with pytest.raises(socket.gaierror):
        await names.addresses("another.example", 80)
    servers.error = socket.gaierror(socket.EAI_NONAME, "no such name")
    for _ in range(2):
        with pytest.raises(socket.gaierror):
            await names.addresses("carrier.example", 80)
    servers.error = None
    assert await names.addresses("carrier.example", 80) == [ADDRESS]


async def test_no_room_for_a_thread_is_an_error_of_the_network(
    servers: NameServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as m:
        m.setattr(threading.Thread, "start", no_room)
        with pytest.raises(OSError, match="No thread"):
            await Names().addresses("carrier.example", 80)
