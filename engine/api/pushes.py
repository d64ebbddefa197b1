"""What providers push, receipts and messages: read as the section of the provider says, and answered once it
is in Redis.

Providers know no API keys. Each gets an address with a word in it that only it knows, the `receipt_token` of
its section. A provider that gets another answer, or none, sends again, as often as it likes.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from aiohttp import hdrs, web

from engine.api.decoding import read_body
from engine.api.problems import not_found
from engine.api.push_ports import PushReader
from engine.api.response import Response
from engine.errors import Refusal, Unavailable

_Found = TypeVar("_Found")


async def answer_push(
    request: web.Request,
    readers: Mapping[str, PushReader[_Found]],
    keep: Callable[[_Found], Awaitable[None]],
    *,
    body_bytes_max: int,
    now_us: Callable[[], int],
    unread: Callable[[Refusal, str, bytes], None] = lambda refusal, query, body: None,
) -> Response:
    """Read and keep what a request brings; the answer that its provider expects.

    `keep` is given what was found when that is anything. `unread` is told of a request that is refused, with
    its query and its body. Raises Refusal 404 for an unknown address, 400, 413 or 422 for a request that
    cannot be read, after what could be read of it is kept; and what `keep` raises.
    """
    reader = _reader_at(request, readers)
    reply = Response(reader.reply.status, reader.reply.body.encode(), content_type=reader.reply.content_type)
    if request.method == hdrs.METH_HEAD:
        # Somebody checks whether the address exists.
        return reply
    body = await read_body(request, body_bytes_max)
    # As it came. Octets that are no UTF-8 stand in it as lone surrogates, which cannot be encoded.
    query = request.raw_path.partition("?")[2].encode(errors="replace").decode()
    content_type = request.headers.get(hdrs.CONTENT_TYPE, "")
    found, refusal = reader.read(request.method, query, content_type, body, now_us())
    if refusal is not None:
        unread(refusal, query, body)
    if found:
        await keep(found)
    if refusal is not None:
        raise refusal
    return reply


async def until_kept(put: Callable[[Callable[[bool], None]], None], what: str) -> None:
    """Give to a sink and wait until it is in Redis. `put` passes on the callback that says so. Raises
    Unavailable, which names `what`, when that was not possible."""
    kept: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def stored(done: bool) -> None:
        # The exchange may have ended at its deadline.
        if not kept.done():
            kept.set_result(done)

    put(stored)
    if not await kept:
        raise Unavailable(f"The {what} cannot be kept now; send them again.")


def _reader_at(request: web.Request, readers: Mapping[str, PushReader[_Found]]) -> PushReader[_Found]:
    """An unknown provider and a wrong token look alike."""
    reader = readers.get(request.match_info["name"])
    token = request.match_info["token"].encode(errors="replace")
    wanted = reader.token.encode() if reader is not None else b""
    if not hmac.compare_digest(token, wanted) or reader is None or not wanted:
        raise not_found("There is nothing at this path.")
    return reader
