"""The API with the engine's own intake behind it, connections to it, and what its answers must be like.

A connection is the server's own protocol on a transport in memory: what octets bring about does not depend
on a socket, and with one most of the time went to waiting until nothing more comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from engine.api.app import create_app
from engine.api.auth import Keys
from engine.api.edge.edge import Edge
from engine.api.server import Server
from engine.stores.migrate import migrate_postgres
from engine.stores.postgres.directory import Directory
from supervisor.embedded.servers import start_all
from tests.api.world import services_with
from tests.fuzz.intake import CreditDesk, ingest
from tests.fuzz.pushed_receipt import READERS
from tests.fuzz.target import Bench, Transport, bench, pieces
from tests.providers.sink import Sink

BODY_OCTETS_MAX = 2048
# A body that never comes is given up after this time, seconds.
TIMEOUT_S = 5.0
# In so many turns of the loop each task goes on that could go on without a store.
_TURNS_MAX = 50
_HEAD = re.compile(
    rb"HTTP/1\.1 (?P<status>[1-5]\d\d) [A-Za-z ]+\r\n(?P<fields>(?:[A-Za-z-]+: [\x20-\x7e]*\r\n)*)\r\n"
)
_PROBLEM = {"type", "title", "status", "code", "detail", "request_id"}


class Answer(NamedTuple):
    """One answer of the API."""

    status: int
    # Names in lower case.
    fields: dict[bytes, bytes]
    body: bytes

    @property
    def closes(self) -> bool:
        """Whether it is the last of its connection."""
        return self.fields.get(b"connection") == b"close"


class World(NamedTuple):
    """The API under test, and what is behind it."""

    on: Bench
    server: Server
    api_key: str
    desk: CreditDesk
    sink: Sink


@contextlib.contextmanager
def world() -> Iterator[World]:
    """A PostgreSQL, an organisation in it, and the API."""
    with tempfile.TemporaryDirectory() as folder, bench() as on:
        postgres = start_all(Path(folder), {"postgres"})["postgres"]
        try:
            desk, sink = CreditDesk(), Sink()
            server, directory, key = on.run(_started(postgres.url, desk, sink))
            yield World(on, server, key, desk, sink)
            on.run(server.stop(1))
            on.run(directory.close())
        finally:
            postgres.stop(10)


async def _started(url: str, desk: CreditDesk, sink: Sink) -> tuple[Server, Directory, str]:
    await migrate_postgres(url)
    directory = await Directory.connect(url, shards=16)
    made = await directory.create_organisation("Acme")
    services = await services_with(
        directory, ingest=ingest(desk), history=_no_history, receipts=sink, receipt_readers=READERS,
        timeout_s=TIMEOUT_S, body_bytes_max=BODY_OCTETS_MAX,
    )  # fmt: skip
    listener = socket.create_server(("127.0.0.1", 0))
    # The key is looked up once, so that PostgreSQL is not what the time goes to.
    keys = Keys(directory, fresh_s=1e6, unknown_s=1e6)
    server = Server(create_app(services, keys), listener, Edge(services, keys))
    await server.start()
    return server, directory, made.api_key


async def _no_history(organisation_id: int, message_id: str) -> msgspec.Struct | None:
    return None


class Wire:
    """One connection to the API. Make and use it on the loop of the API."""

    def __init__(self, server: Server) -> None:
        assert server._connections is not None
        self._transport = Transport()
        self._protocol = server._connections()
        self._protocol.connection_made(self._transport)
        task = self._protocol._task_handler
        assert task is not None
        self._task = task

    @property
    def closed(self) -> bool:
        """Whether the API has closed it."""
        return self._transport.closed

    async def send(self, octets: bytes, size: int) -> None:
        """Give it these octets in pieces of `size`, as long as it takes any."""
        for piece in pieces(octets, size):
            if self._transport.paused:
                await self._go_on(lambda: not self._transport.paused)
            if self._transport.paused or self.closed:
                return
            self._protocol.data_received(piece)
            if size:
                await asyncio.sleep(0)

    async def answered(self) -> bytes:
        """What it answers before further octets come. Raises AssertionError when it is stuck."""
        reads_on = await self._go_on(self._awaits_octets)
        octets = bytes(self._transport.written)
        self._transport.written.clear()
        # After its answer it passes over the rest of a body that was refused.
        assert octets or reads_on or self.closed, "it neither answers nor reads on"
        return octets

    async def _go_on(self, until: Callable[[], bool]) -> bool:
        """Let it work until this is so, or it is closed, or does nothing by itself; whether this is so."""
        turns = 0
        while not (reached := until()) and not self.closed and turns < _TURNS_MAX:
            await asyncio.sleep(0)
            # A request that waits for a store takes as long as that.
            turns = 0 if self._protocol._current_request else turns + 1
        return reached

    def _awaits_octets(self) -> bool:
        """Whether it waits for the next request, or for more of a body."""
        request = self._protocol._current_request
        if request is not None:
            # A request without a body has a stream that never waits.
            return getattr(request.content, "_waiter", None) is not None
        waiter = self._protocol._waiter
        return waiter is not None and not waiter.done()

    async def close(self) -> None:
        """Close it from the other side. Raises AssertionError when a request that has no body yet stays."""
        self._protocol.eof_received()
        self._protocol.connection_lost(None)
        for _ in range(_TURNS_MAX):
            if self._task.done():
                break
            await asyncio.sleep(0)
        assert self._protocol._current_request is None, "a request goes on without its connection"
        # It may still wait for the rest of a body that was refused.
        self._task.cancel()


def answers_in(octets: bytes, bodiless: bool) -> list[Answer]:
    """The answers of one connection. Raises AssertionError for anything that is none.

    `bodiless`: answers to HEAD may be among them, whose length is that of a body that does not come.
    """
    found: list[Answer] = []
    while octets:
        if octets.startswith(b"HTTP/1.1 100 Continue\r\n\r\n"):
            octets = octets.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
            continue
        head = _HEAD.match(octets)
        assert head, f"no answer begins with {octets[:200]!r}"
        lines = [line.partition(b": ") for line in head["fields"].split(b"\r\n")[:-1]]
        fields = {name.lower(): value for name, _, value in lines}
        assert len(fields) == len(lines), f"a header stands twice in {octets[:300]!r}"
        octets = octets[head.end() :]
        size = 0 if head["status"] == b"204" else int(fields[b"content-length"])
        if bodiless and (not octets or octets.startswith(b"HTTP/1.1 ")):
            size = 0
        assert len(octets) >= size, "an answer ends early"
        found.append(Answer(int(head["status"]), fields, octets[:size]))
        octets = octets[size:]
        assert not (found[-1].closes and octets), "octets after an answer that closes"
    return found


def check_answer(answer: Answer) -> None:
    """A refusal is a problem document, and nothing is a 500."""
    assert answer.status < 500 or answer.status == 503, f"{answer.status}: {answer.body!r}"
    assert answer.fields[b"x-request-id"]
    if answer.status >= 400 and answer.body:
        assert answer.fields[b"content-type"] == b"application/problem+json"
        problem = msgspec.json.decode(answer.body)
        assert problem.keys() >= _PROBLEM, f"a problem with {problem.keys()}"
        assert problem["status"] == answer.status
        assert problem["request_id"].encode() == answer.fields[b"x-request-id"]


def accepted_in(answers: list[Answer]) -> dict[str, int]:
    """Units by id of the messages that these answers accept."""
    found: dict[str, int] = {}
    for answer in answers:
        if answer.status == 202 and answer.body[:1] == b"{":
            reply = msgspec.json.decode(answer.body)
            results = reply.get("results", [reply])
            found |= {one["id"]: one["units"] for one in results if "id" in one}
    return found
