"""Where providers push their receipts: `/v1/providers/{name}/receipts/{token}`.

Providers know no API keys. Each gets an address with a word in it that only it knows, the
`receipt_token` of the provider's section. The section also says how its requests are read.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Sequence

from aiohttp import hdrs, web

from engine.api.decoding import read_body
from engine.api.description import TEXT, Answer, Parameter, described
from engine.api.ports import Services
from engine.api.problems import not_found
from engine.api.receipt_ports import ReceiptReader
from engine.api.response import Response
from engine.errors import Unavailable
from engine.problem_records import ProblemKind
from engine.receipts.records import Receipt

# How much of a body that cannot be read is looked at.
_SAMPLE_BYTES = 1000


class Receipts:
    """The actions on the address of a provider's receipts."""

    def __init__(self, services: Services) -> None:
        self._readers = services.receipt_readers
        self._sink = services.receipts
        self._problems = services.problems
        self._now_us = services.now_us
        self._body_bytes_max = services.body_bytes_max

    @described(
        "push_receipts",
        "Take receipts that a provider pushes, in the form that the provider's section describes.",
        more="The answer is what that section says. The word in the path is the provider's `receipt_token`.",
        path={
            "name": Parameter("The name of the provider.", TEXT, "provider"),
            "token": Parameter("Its `receipt_token`.", TEXT, "receipt_token"),
        },
        answers={200: Answer(None, "The receipts are kept.", content_type="*/*")},
        codes=("invalid_receipt", "too_large", "too_many"),
    )
    async def take(self, request: web.Request) -> Response:
        """Take a request with receipts. The answer that the provider expects goes out only once the
        receipts are in Redis. A provider that gets another answer, or none, sends them again; it
        may do so as often as it likes.

        Raises Refusal 404 for an unknown address, 400, 413 or 422 for a request that cannot be
        read, after what could be read of it is kept; Unavailable when the receipts cannot be kept.
        """
        reader = self._reader(request)
        reply = Response(
            reader.reply.status, reader.reply.body.encode(), content_type=reader.reply.content_type
        )
        if request.method == hdrs.METH_HEAD:
            # Somebody checks whether the address exists.
            return reply
        body = await read_body(request, self._body_bytes_max)
        # As it came. Octets that are no UTF-8 stand in it as lone surrogates, which cannot be encoded.
        query = request.raw_path.partition("?")[2].encode(errors="replace").decode()
        content_type = request.headers.get(hdrs.CONTENT_TYPE, "")
        receipts, refusal = reader.read(request.method, query, content_type, body, self._now_us())
        if refusal is not None:
            lead = f"{refusal.detail} {request.method} "
            sample = f"?{query}\n".encode(errors="replace") + body[:_SAMPLE_BYTES]
            name = request.match_info["name"]
            self._problems.note(name, ProblemKind.receipt_unread, sample, lead=lead)
        if receipts and not await self._kept(receipts):
            raise Unavailable("The receipts cannot be kept now; send them again.")
        if refusal is not None:
            raise refusal
        return reply

    async def _kept(self, receipts: Sequence[Receipt]) -> bool:
        kept: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def stored(done: bool) -> None:
            # The exchange may have ended at its deadline.
            if not kept.done():
                kept.set_result(done)

        self._sink.put(receipts, stored)
        return await kept

    def _reader(self, request: web.Request) -> ReceiptReader:
        """An unknown provider and a wrong token look alike."""
        reader = self._readers.get(request.match_info["name"])
        token = request.match_info["token"].encode(errors="replace")
        wanted = reader.token.encode() if reader is not None else b""
        if not hmac.compare_digest(token, wanted) or reader is None or not wanted:
            raise not_found("There is nothing at this path.")
        return reader
