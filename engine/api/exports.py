"""Messages, or their events, as a file: of an organisation and a period, a row each, sent while ClickHouse
writes it.

An answer that begins is 200. When it cannot be finished, its connection is closed before the end of the body,
which every client of HTTP notices, and the log says why. A reader that takes nothing for a while is given up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import get_args

import structlog
from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter

from engine.api.admin import organisation_id_of
from engine.api.auth import Keys
from engine.api.description import Answer, Parameter, described
from engine.api.known_organisations import check_exists
from engine.api.paging import choice_asked
from engine.api.parameters import ORGANISATION
from engine.api.ports import AdminServices, CommonServices
from engine.api.report_ports import Exporter
from engine.api.reports import PERIOD, QUEUE_NAMES, ReportQueue, period_of
from engine.api.response import Response
from engine.errors import EngineError
from engine.stores.clickhouse.export import ExportFormat, ExportQuery, ExportRows

_FORMATS: Mapping[str, ExportFormat] = {name: name for name in get_args(ExportFormat)}
_ROWS: Mapping[str, ExportRows] = {name: name for name in get_args(ExportRows)}
_TYPES: Mapping[ExportFormat, str] = {
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/jsonl",
    "parquet": "application/vnd.apache.parquet",
}
# The same without their parameters, as the document has them.
_KINDS = ", ".join(one.partition(";")[0] for one in _TYPES.values())
_PARAMETERS = {
    **PERIOD,
    "format": Parameter("The format of the file.", {"enum": list(_FORMATS), "default": "csv"}),
    "rows": Parameter("What has a row each.", {"enum": list(_ROWS), "default": "messages"}),
}
_MORE = (
    "Events come in the order of acceptance of their messages, and messages nearly so. A body that ends "
    "before its last chunk is not whole."
)

_log = structlog.get_logger(__name__)


class FileResponse(Response):
    """A 200 whose body comes in parts."""

    def __init__(self, parts: AsyncIterator[bytes], held: AsyncExitStack, query: ExportQuery) -> None:
        """`held`: what is released when the answer has ended."""
        super().__init__(200, content_type=_TYPES[query.format])
        self._parts = parts
        self._held = held
        self._query = query
        self._type = _TYPES[query.format]

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Write the head, and each part as it comes, until the end or until the reader or the store fails."""
        writer = request.writer
        async with self._held:
            chunked = request.version >= HttpVersion11
            if not request.keep_alive or not chunked:
                self.force_close()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: {self._type}\r\nX-Request-Id: {self.request_id}\r\n"
            head += "" if self.keep_alive else "Connection: close\r\n"
            head += self.more_lines()
            head += "Transfer-Encoding: chunked\r\n\r\n" if chunked else "\r\n"
            await writer.write(head.encode())
            if request.method != "HEAD":
                await self._write(request, chunked=chunked)
            await writer.write_eof()
        return writer

    async def _write(self, request: web.BaseRequest, *, chunked: bool) -> None:
        try:
            async for part in self._parts:
                octets = b"%x\r\n%b\r\n" % (len(part), part) if chunked else part
                await request.writer.write(octets)
                # What is in the socket's own buffer is enough to wait for.
                await request.writer.drain()
            if chunked:
                await request.writer.write(b"0\r\n\r\n")
        except EngineError as e:
            # The body has begun, so that nothing else can be said to the caller.
            _log.warning(
                "export broken off; its file is not whole",
                request_id=self.request_id,
                organisation=self._query.organisation_id,
                rows=self._query.rows,
                format=self._query.format,
                reason=str(e),
            )
            self.force_close()
            if request.transport is not None:
                request.transport.abort()


class OwnExports:
    """The action on /v1/reports/messages."""

    def __init__(self, services: CommonServices, keys: Keys) -> None:
        self._export = services.reports.export
        self._now_us = services.now_us
        self._keys = keys
        self._queue = ReportQueue()

    @described(
        "export_messages",
        "Get the messages that were accepted in a period, or their events, as a file, a row each.",
        more=_MORE,
        scope="read",
        query=_PARAMETERS,
        answers={200: Answer(str, content_type=_KINDS)},
        codes=("report_under_way",),
    )
    async def messages(self, request: web.Request) -> Response:
        """`GET /v1/reports/messages`: 200 with a file. Raises Refusal 401, 403, 422, 429, Unavailable."""
        organisation_id = await self._keys.organisation(request.headers.get(hdrs.AUTHORIZATION), request)
        query = _query_of(request, organisation_id, self._now_us() // 1_000_000, texts=True)
        return await _file(self._export, query, self._queue)


class AllExports:
    """The action on /v1/admin/organisations/{organisation_id}/reports/messages."""

    def __init__(self, services: AdminServices) -> None:
        self._export = services.reports.export
        self._directory = services.directory
        self._now_us = services.now_us
        self._queue = ReportQueue()

    @described(
        "export_messages_of",
        "Get the messages of an organisation that were accepted in a period, or their events, as a file.",
        more=_MORE,
        path=ORGANISATION,
        query=_PARAMETERS,
        answers={200: Answer(str, content_type=_KINDS)},
        codes=("report_under_way",),
    )
    async def messages(self, request: web.Request) -> Response:
        """`GET /organisations/{organisation_id}/reports/messages`: 200 with a file. Raises Refusal 401, 403,
        404, 422, 429, Unavailable."""
        query = _query_of(request, organisation_id_of(request), self._now_us() // 1_000_000)
        await check_exists(self._directory, query.organisation_id)
        return await _file(self._export, query, self._queue)


def _query_of(request: web.Request, organisation_id: int, now_s: int, *, texts: bool = False) -> ExportQuery:
    from_s, until_s = period_of(request, now_s)
    return ExportQuery(
        texts=texts,
        organisation_id=organisation_id,
        from_s=from_s,
        until_s=until_s,
        format=choice_asked(request, "format", _FORMATS),
        queue=choice_asked(request, "queue", QUEUE_NAMES),
        rows=choice_asked(request, "rows", _ROWS),
    )


async def _file(export: Exporter, query: ExportQuery, queue: ReportQueue) -> FileResponse:
    """Begin the file: what fails by then is a problem. Raises TooMany, Unavailable."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(queue.turn(query.organisation_id))
        parts = await stack.enter_async_context(export(query))
        return FileResponse(parts, stack.pop_all(), query)
