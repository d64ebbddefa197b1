"""HTTP to the simulator, byte by byte under a test's control."""

from __future__ import annotations

import json
import socket
from typing import Any
from urllib.parse import urlsplit

from supervisor.simulator import Simulator


class Answer:
    def __init__(self, head: bytes, body: bytes) -> None:
        first, *fields = head.decode().split("\r\n")
        self.status = int(first.split()[1])
        self.fields = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection, byte by byte under the test's control."""

    def __init__(self, simulator: Simulator, receive_bytes: int | None = None) -> None:
        address = urlsplit(simulator.url)
        assert address.hostname
        assert address.port
        self.socket = socket.socket()
        self.socket.settimeout(20)
        if receive_bytes is not None:  # has to be known when the connection is made
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.connect((address.hostname, address.port))
        self.stream = self.socket.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()
        self.socket.close()

    def write(self, method: str, path: str, body: bytes = b"", version: str = "1.1") -> None:
        head = f"{method} {path} HTTP/{version}\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        self.socket.sendall(head.encode() + body)

    def read(self) -> Answer:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.stream.readline()
            if not line:
                raise ConnectionResetError("closed without an answer")
            head += line
        answer = Answer(head[:-4], b"")
        if answer.fields.get("transfer-encoding") == "chunked":
            while size := int(self.stream.readline(), 16):
                answer.body += self.stream.read(size)
                assert self.stream.read(2) == b"\r\n"
            assert self.stream.read(2) == b"\r\n"
        else:
            answer.body = self.stream.read(int(answer.fields["content-length"]))
        return answer


def ask(simulator: Simulator, method: str, path: str, value: object = None) -> Answer:
    with Client(simulator) as client:
        client.write(method, path, b"" if value is None else json.dumps(value).encode())
        return client.read()


def send_of(number: int) -> dict[str, object]:
    return {
        "id": f"01930000-0000-7000-8000-{number:012x}",
        "to": "+98",
        "from": "me",
        "text": "hi",
        "segments": 1,
    }
