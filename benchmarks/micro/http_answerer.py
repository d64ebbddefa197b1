"""A provider that takes everything at once: `python -m benchmarks.micro.http_answerer [STATUS]`.

It prints its port and answers until its standard input ends: POST with an id in JSON and STATUS,
201 without one, GET as Kannel's smsbox does. It does as little as a server can, so that it is
never what is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple, cast

import uvloop

POST_ANSWER = (
    b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 55\r\n\r\n"
    b'{"id":"8f14e45f-ceea-467f-a0e6-6c0e9b1b1b1b","code":"0"}'
)
GET_ANSWER = (
    b"HTTP/1.1 202 Accepted\r\nServer: Kannel/1.4.5\r\nContent-Length: 24\r\nConnection: Keep-Alive\r\n"
    b"Content-type: text/html\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n\r\n0: Accepted for delivery"
)
POST_ANSWER = POST_ANSWER.replace(b": 55", b": %d" % len(POST_ANSWER.partition(b"\r\n\r\n")[2]))

_LENGTH = re.compile(rb"(?i)content-length: (\d+)")


class _Connection(asyncio.Protocol):
    """One request at a time, as the provider sends them."""

    def __init__(self, post_answer: bytes) -> None:
        self._post_answer = post_answer
        self._held = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._held += data
        head, end, body = self._held.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or (length and len(body) < int(length[1])):
            return
        assert self._transport
        self._transport.write(GET_ANSWER if head.startswith(b"GET") else self._post_answer)
        self._held = b""


async def _serve(status: bytes) -> None:
    loop = asyncio.get_running_loop()
    post_answer = POST_ANSWER.replace(b"201", status, 1)
    server = await loop.create_server(lambda: _Connection(post_answer), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    loop.add_reader(0, ended.set)
    await ended.wait()


class Answerer(NamedTuple):
    """A running server: its process id and its port on 127.0.0.1."""

    pid: int
    port: int


@contextlib.contextmanager
def answerer(status: str = "201") -> Iterator[Answerer]:
    """Start this server as a process of its own, and kill it at the end; `status` is that of its answers."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.micro.http_answerer", status],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        try:
            yield Answerer(process.pid, int(process.stdout.readline()))
        finally:
            process.kill()


if __name__ == "__main__":
    uvloop.run(_serve((sys.argv[1:] or ["201"])[0].encode()))
