"""Taking back what was sent: the calls that cancel."""

from __future__ import annotations

import re
from functools import partial

import msgspec
from aiohttp import hdrs, web

from engine.api.auth import Keys
from engine.api.decoding import Shape, read_body
from engine.api.message_lists import no_batch
from engine.api.ports import Services
from engine.api.problems import not_found
from engine.api.repeats import Repeats
from engine.api.response import Response, answer_of
from engine.batches import batch_of

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    pass


_NOTHING = Shape(_Nothing, "a cancelation", {})


class CancelCalls:
    """The actions that cancel messages."""

    def __init__(self, services: Services, keys: Keys) -> None:
        self._cancels = services.cancels
        self._repeats = Repeats(services.answers, services.body_bytes_max)
        self._body_bytes_max = services.body_bytes_max
        self._keys = keys

    async def message(self, request: web.Request) -> Response:
        """`POST /v1/messages/{id}/cancel`: 200; the message is not sent, and its units are released.

        Safe to repeat. Raises Refusal 400, 401, 403, 404, 409, 413, 422, Unavailable.
        """
        organisation_id = await self._keys.owner(request.headers.get(hdrs.AUTHORIZATION))
        return await self._repeats.once(request, organisation_id, partial(self._message, organisation_id))

    async def _message(self, organisation_id: int, request: web.Request) -> Response:
        _NOTHING.decode_optional(await read_body(request, self._body_bytes_max))
        message_id = request.match_info["id"]
        if _UUID.fullmatch(message_id):
            canceled = await self._cancels.message(organisation_id, message_id.lower())
            if canceled is not None:
                return answer_of(200, canceled)
        raise not_found("The organisation has no message with this id.")

    async def batch(self, request: web.Request) -> Response:
        """`POST /v1/batches/{id}/cancel`: 200 with how many of its messages are canceled.

        Safe to repeat. Raises Refusal 400, 401, 403, 404, 413, 422, Unavailable.
        """
        organisation_id = await self._keys.owner(request.headers.get(hdrs.AUTHORIZATION))
        return await self._repeats.once(request, organisation_id, partial(self._batch, organisation_id))

    async def _batch(self, organisation_id: int, request: web.Request) -> Response:
        _NOTHING.decode_optional(await read_body(request, self._body_bytes_max))
        batch = batch_of(request.match_info["id"])
        canceled = None if batch is None else await self._cancels.batch(organisation_id, batch)
        if canceled is None:
            raise no_batch()
        return answer_of(200, canceled)
