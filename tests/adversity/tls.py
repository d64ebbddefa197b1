"""Certificates of a private authority, and a server that speaks TLS before one that does not."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

_SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


class Files(msgspec.Struct, frozen=True):
    """An authority; a certificate with its key for 127.0.0.1, and one for a client, both signed by it."""

    ca: str
    server: str
    client: str
    client_key: str


def make_files(folder: Path) -> Files:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=private")
    (folder / "names").write_text("subjectAltName = IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-extfile", "names", "-out", f"{name}.pem")  # fmt: skip
    both = folder / "server-both.pem"
    both.write_text((folder / "server.key").read_text() + (folder / "server.pem").read_text())
    return Files(*(str(folder / name) for name in ("ca.pem", both.name, "client.pem", "client.key")))


@asynccontextmanager
async def tls_before(
    host: str, port: int, files: Files, *, client_needed: bool = False, postgres: bool = False
) -> AsyncIterator[int]:
    """The port of a TLS server that passes everything on. `client_needed`: it wants a certificate.

    `postgres`: the client asks for TLS first, as PostgreSQL's protocol has it.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files.ca)
    context.load_cert_chain(files.server)
    if client_needed:
        context.verify_mode = ssl.CERT_REQUIRED
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(1 << 16):
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            if postgres:
                if await reader.readexactly(8) != _SSL_REQUEST:
                    writer.close()
                    return
                writer.write(b"S")
                await writer.start_tls(context)
            behind = await asyncio.open_connection(host, port)
            await asyncio.gather(pump(reader, behind[1]), pump(behind[0], writer))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=None if postgres else context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
