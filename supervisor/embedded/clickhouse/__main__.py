"""ClickHouse's engine behind ClickHouse's HTTP protocol, on one loopback port.

    python -m supervisor.embedded.clickhouse.__main__ --port 8123 --path DIR --password-file FILE

It is for demonstration, development and tests on one machine. Every process of smsengine uses
the ordinary ClickHouse client against it, so that there is no second code path. There is one
user, `sms`. SIGTERM or SIGINT ends it with exit code 0.

- client gone or body cut while inserting: the insert is cancelled, no row is kept;
- killed while inserting: the client sees a closed connection and sends the block again;
- client gone while reading: a result given in parts is cancelled, another one is read to its end;
- an error after the first part of a result: the exception is written into the body
  between two tags (as servers do since 25.11) and the connection is closed.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hmac
import json
import logging
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import ParamSpec, TypeVar

from aiohttp import BodyPartReader, web

from engine.hosts.cpu_turns import give_way
from supervisor.embedded.clickhouse.engine import Engine, Insert, Lease, Result, refuse_writes
from supervisor.embedded.clickhouse.protocol import (
    AUTHENTICATION_FAILED,
    HEADER_BYTES_MAX,
    NOT_IMPLEMENTED,
    QUERY_IS_TOO_LARGE,
    SYNTAX_ERROR,
    Call,
    Decoder,
    Failed,
    Statement,
    call,
    failed,
    parse,
)

USER = "sms"
MEMORY_BYTES_MAX = 2_000_000_000
# A statement without FORMAT, with its values, is held in memory as a whole, bytes.
STATEMENT_BYTES_MAX = 64 * 1024 * 1024
# The engine gets rows in pieces of at least this size, or all at once when there are fewer, bytes.
PIECE_BYTES = 1024 * 1024
THREADS = 16
# After that signal requests under way have this long, seconds.
DRAIN_S = 2.0

# The engine catches these and then hangs (seen with SIGABRT, which systemd's watchdog sends).
# A process that ends is started again; one that hangs is not.
_FATAL = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)

P = ParamSpec("P")
T = TypeVar("T")
_log = logging.getLogger("clickhouse")


class HttpFrontend:
    """ClickHouse's HTTP interface to one engine."""

    def __init__(self, engine: Engine, password: str) -> None:
        self._engine = engine
        self._password = password.encode()
        self._readers = ThreadPoolExecutor(THREADS, "reads")
        # Somebody waits for what is read. Rows and tables can wait for those who send messages.
        self._writers = ThreadPoolExecutor(THREADS, "writes", initializer=give_way)
        self._busy = 0

    @property
    def idle(self) -> bool:
        """Whether no thread is inside the engine."""
        return self._busy == 0

    async def _run(
        self, threads: ThreadPoolExecutor, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work` on a thread. The wait is not cancelled, because what the thread uses must outlive it."""
        self._busy += 1
        future = asyncio.wrap_future(threads.submit(work, *args, **kwargs))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise
        finally:
            if future.done():
                self._busy -= 1

    async def ping(self, request: web.Request) -> web.Response:
        """Answer `/ping` as a server does, without a password."""
        return web.Response(text="Ok.\n")

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer one request. Every failure becomes a body and a code in the header, as on a server."""
        try:
            return await self._serve(request)
        except Failed as e:
            text = e.text if "(version" in e.text else f"{e.text} (version {self._engine.version})"
            headers = self._headers(request) | {"X-ClickHouse-Exception-Code": str(e.code)}
            return web.Response(status=e.status, text=text + "\n", headers=headers)
        except (ConnectionError, web.RequestPayloadError):
            # The client went away, or its body is no HTTP: nobody reads this answer.
            return web.Response(status=HTTPStatus.BAD_REQUEST)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        arguments = dict(request.query)
        self._authenticate(request, arguments)
        if request.content_type == "multipart/form-data":
            arguments |= await _form(request)
            body = _nothing()
        else:
            body = _decoded(request)
        asked = call(arguments, request.headers)
        head = arguments["query"].encode() if "query" in arguments else b""
        if not head and request.method == "GET":
            return web.Response(text="Ok.\n")
        head, complete = await _gather(head + b"\n" if head else b"", body, PIECE_BYTES)
        statement = _parse_head(head, complete)
        if statement is None or (statement.kind != "data" and not complete):
            head, complete = await _gather(head, body, STATEMENT_BYTES_MAX)
            if not complete:
                raise failed(QUERY_IS_TOO_LARGE, f"The statement is larger than {STATEMENT_BYTES_MAX} bytes.")
            statement = parse(head)
        if request.method == "GET":
            refuse_writes(statement)
        if statement.kind == "data":
            rows = head[statement.data_at :]
            written = await (
                self._run(self._writers, self._insert_whole, statement, asked, rows)
                if complete
                else self._insert_parts(statement, asked, rows, body)
            )
            return web.Response(headers=self._headers(request, written))
        if statement.kind == "read":
            return await self._read(request, statement, asked)
        written = await self._run(self._writers, self._command, statement, asked)
        return web.Response(headers=self._headers(request, written))

    def _authenticate(self, request: web.Request, arguments: dict[str, str]) -> None:
        user, password = arguments.get("user", "default"), arguments.get("password", "")
        kind, _, encoded = request.headers.get("Authorization", "").partition(" ")
        if "X-ClickHouse-User" in request.headers:
            user = request.headers["X-ClickHouse-User"]
            password = request.headers.get("X-ClickHouse-Key", "")
        elif kind == "Basic":
            try:
                user, _, password = base64.b64decode(encoded).decode().partition(":")
            except ValueError:
                user = ""
        right = hmac.compare_digest(password.encode(), self._password)
        if user != USER or not right:
            raise failed(
                AUTHENTICATION_FAILED,
                f"{user}: Authentication failed: password is incorrect, or there is no user with such name.",
            )

    def _headers(self, request: web.Request, written: int = 0) -> dict[str, str]:
        summary = {"read_rows": "0", "read_bytes": "0", "written_rows": str(written), "written_bytes": "0"}
        summary |= {"total_rows_to_read": "0", "result_rows": str(written), "result_bytes": "0"}
        return {
            "X-ClickHouse-Server-Display-Name": "embedded",
            "X-ClickHouse-Query-Id": request.query.get("query_id") or str(uuid.uuid4()),
            "X-ClickHouse-Timezone": self._engine.timezone,
            "X-ClickHouse-Summary": json.dumps(summary),
        }

    def _command(self, statement: Statement, asked: Call) -> int:
        lease = self._engine.open(asked)
        try:
            return lease.execute(statement, asked)[0]
        finally:
            lease.close()

    def _insert_whole(self, statement: Statement, asked: Call, rows: bytes) -> int:
        lease = self._engine.open(asked)
        try:
            insert = lease.insert(statement, asked)
            try:
                insert.append(rows)
                return insert.finish()
            except BaseException:
                insert.cancel()
                raise
        finally:
            lease.close()

    async def _insert_parts(
        self, statement: Statement, asked: Call, rows: bytes, body: AsyncIterator[bytes]
    ) -> int:
        lease = await self._run(self._writers, self._engine.open, asked)
        insert: Insert | None = None
        try:
            insert = await self._run(self._writers, lease.insert, statement, asked)
            complete = False
            while not complete:
                await self._run(self._writers, insert.append, rows)
                rows, complete = await _gather(b"", body, PIECE_BYTES)
            await self._run(self._writers, insert.append, rows)
            written, insert = await self._run(self._writers, insert.finish), None
            return written
        finally:
            # Something went wrong, or the client went away: no row is kept.
            if insert is not None:
                await self._run(self._writers, insert.cancel)
            await self._run(self._writers, lease.close)

    async def _read(self, request: web.Request, statement: Statement, asked: Call) -> web.StreamResponse:
        tag = uuid.uuid4().hex[:16]
        headers = self._headers(request)
        headers["X-ClickHouse-Format"] = statement.format or asked.default_format
        headers["X-ClickHouse-Exception-Tag"] = tag
        lease, result, first, second = await self._run(self._readers, self._begin_read, statement, asked)
        if second is None:
            return web.Response(body=first or b"", headers=headers)
        try:
            try:
                response = web.StreamResponse(headers=headers)
                await response.prepare(request)
                await response.write(first or b"")
                await self._write_rest(response, result, second, tag)
                return response
            finally:
                await self._run(self._readers, result.cancel)
        finally:
            await self._run(self._readers, lease.close)

    def _begin_read(
        self, statement: Statement, asked: Call
    ) -> tuple[Lease, Result, bytes | None, bytes | None]:
        """(connection, result, first part, second part): an error by then is still a status.

        One part needs no stream, and then the connection is given back.
        """
        lease = self._engine.open(asked)
        try:
            result = lease.read(statement, asked)
            first = result.part()
            second = None if first is None else result.part()
        except BaseException:
            lease.close()
            raise
        if second is None:
            lease.close(unchanged=True)
        return lease, result, first, second

    async def _write_rest(
        self, response: web.StreamResponse, result: Result, part: bytes | None, tag: str
    ) -> None:
        try:
            while part is not None:
                await response.write(part)
                part = await self._run(self._readers, result.part)
        except Failed as e:
            text = e.text.encode()
            closing = b"\n%d %s\r\n__exception__\r\n" % (len(text) + 1, tag.encode())
            await response.write(b"__exception__\r\n" + tag.encode() + b"\r\n" + text + closing)
            response.force_close()
        await response.write_eof()


def _parse_head(head: bytes, complete: bool) -> Statement | None:
    """The statement, or None when more of the body is needed to tell."""
    try:
        return parse(head)
    except Failed:
        if complete or len(head) > HEADER_BYTES_MAX + PIECE_BYTES:
            raise
        return None


async def _gather(head: bytes, body: AsyncIterator[bytes], enough: int) -> tuple[bytes, bool]:
    """(`head` and parts of the body, at least `enough` bytes; whether the body has ended)."""
    parts, size = [head], len(head)
    while size < enough:
        part = await anext(body, None)
        if part is None:
            return b"".join(parts), True
        parts.append(part)
        size += len(part)
    return b"".join(parts), False


async def _nothing() -> AsyncIterator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for part in nothing:
        yield part


async def _decoded(request: web.Request) -> AsyncIterator[bytes]:
    """The body in parts, decoded here and not by aiohttp, which does not know lz4."""
    decoder = Decoder(request.headers.get("Content-Encoding", "").lower())
    async for part in request.content.iter_any():
        if decoded := decoder.decode(part):
            yield decoded
    decoder.finish()


async def _form(request: web.Request) -> dict[str, str]:
    """Fields of a form; clients use it when the query or a parameter is too long for the URL."""
    fields: dict[str, str] = {}
    left = STATEMENT_BYTES_MAX
    try:
        parts = await request.multipart()
    except ValueError as e:
        raise failed(SYNTAX_ERROR, f"The form cannot be read: {e}.") from e
    async for part in parts:
        if not isinstance(part, BodyPartReader) or part.name is None:
            raise failed(SYNTAX_ERROR, "The form has a part without a name.")
        if part.filename is not None:
            raise failed(NOT_IMPLEMENTED, "External tables are not supported by the embedded server.")
        value = bytearray()
        while chunk := await part.read_chunk(65536):
            value += chunk
            left -= len(chunk)
            if left < 0:
                raise failed(QUERY_IS_TOO_LARGE, f"The form is larger than {STATEMENT_BYTES_MAX} bytes.")
        try:
            fields[part.name] = value.decode()
        except UnicodeDecodeError as e:
            raise failed(SYNTAX_ERROR, f"The field {part.name} is not UTF-8.") from e
    return fields


async def _serve_until_stopped(engine: Engine, password: str, port: int) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    face = HttpFrontend(engine, password)
    app = web.Application()
    app.router.add_get("/ping", face.ping)
    app.router.add_route("*", "/", face.serve)
    runner = web.AppRunner(
        app,
        access_log=None,
        auto_decompress=False,
        # The URL may hold long parameters.
        max_line_size=1 << 20,
        max_field_size=1 << 20,
        read_bufsize=1 << 20,
        shutdown_timeout=DRAIN_S,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await stopped.wait()
    finally:
        await runner.cleanup()
    if not face.idle:
        # A thread is still inside the engine. To wait for it, or to close the engine while it
        # runs, would be worse than to end at once, as by a kill.
        _log.warning("stopped with a query under way")
        sys.stderr.flush()
        os._exit(0)


def main() -> None:
    """Run until SIGTERM or SIGINT. When it cannot start: exit code 1, and one sentence on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m supervisor.embedded.clickhouse.__main__", description=__doc__
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", type=Path, required=True, help="directory of the data")
    parser.add_argument("--password-file", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        password = options.password_file.read_text(encoding="ascii").strip()
        engine = Engine(options.path, MEMORY_BYTES_MAX)
        for signum in _FATAL:
            signal.signal(signum, signal.SIG_DFL)
        asyncio.run(_serve_until_stopped(engine, password, options.port))
    except ImportError:
        sys.exit("chdb-core is not installed for this Python; `make install` installs it.")
    except (OSError, RuntimeError, UnicodeDecodeError) as e:
        sys.exit(f"ClickHouse's engine cannot start: {' '.join(str(e).split())}")
    engine.close()


if __name__ == "__main__":
    main()
