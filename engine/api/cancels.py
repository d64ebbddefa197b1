"""Taking back what was sent: the calls that cancel."""

from __future__ import annotations

import re

import msgspec
from aiohttp import hdrs, web

from engine.activity.cancels import CanceledMessage
from engine.api.auth import Keys
from engine.api.decoding import Shape, read_body
from engine.api.description import described
from engine.api.parameters import MESSAGE
from engine.api.ports import Services
from engine.api.problems import not_found
from engine.api.response import Response, answer_of

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    pass


_NOTHING = Shape(_Nothing, "a cancelation", {})


class CancelCalls:
    """The actions that cancel messages."""

    def __init__(self, services: Services, keys: Keys) -> None:
        self._cancels = services.cancels
        self._body_bytes_max = services.body_bytes_max
        self._keys = keys

    @described(
        "cancel_message",
        "Cancel a message that no provider has; its units are released.",
        scope="send",
        path=MESSAGE,
        body=_NOTHING,
        is_body_optional=True,
        answers={200: CanceledMessage},
        codes=("already_sent", "being_sent", "may_be_sent", "set_aside", "already_ended", "older_version"),
    )
    async def message(self, request: web.Request) -> Response:
        """`POST /v1/messages/{id}/cancel`: 200; the message is not sent, and its units are released.

        Safe to repeat. Raises Refusal 400, 401, 403, 404, 409, 413, 422, Unavailable.
        """
        organisation_id = await self._keys.owner(request.headers.get(hdrs.AUTHORIZATION))
        _NOTHING.decode_optional(await read_body(request, self._body_bytes_max))
        message_id = request.match_info["id"]
        if _UUID.fullmatch(message_id):
            canceled = await self._cancels.message(organisation_id, message_id.lower())
            if canceled is not None:
                return answer_of(200, canceled)
        raise not_found("The organisation has no message with this id.")
