"""Taking back what was sent: the calls that cancel."""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated

import msgspec
from aiohttp import hdrs, web

from engine.activity.campaigns import CanceledCampaign, place_of
from engine.activity.cancels import CanceledBatch, CanceledMessage
from engine.api.auth import Keys
from engine.api.decoding import Shape, invalid, read_body
from engine.api.description import Answer, described
from engine.api.message_lists import no_batch
from engine.api.parameters import BATCH, MESSAGE
from engine.api.ports import CommonServices
from engine.api.problems import not_found
from engine.api.repeats import Repeats
from engine.api.response import Response, answer_of
from engine.batches import batch_of

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class _Campaign(msgspec.Struct, forbid_unknown_fields=True):
    # The longest reference.
    campaign: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    cursor: Annotated[str, msgspec.Meta(max_length=100)] | None = None


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    pass


_NOT_CANCELED = ("already_sent", "already_ended", "being_sent", "may_be_sent", "set_aside")
_NOTHING = Shape(_Nothing, "a cancelation", {})
_CAMPAIGN = Shape(
    _Campaign,
    "a cancelation of a campaign",
    {"campaign": "a string of 1 to 200 characters", "cursor": "the `next` of the call before"},
)


class CancelCalls:
    """The actions that cancel messages."""

    def __init__(self, services: CommonServices, keys: Keys) -> None:
        self._cancels = services.cancels
        self._repeats = Repeats(services.answers, services.body_bytes_max)
        self._body_bytes_max = services.body_bytes_max
        self._keys = keys

    @described(
        "cancel_message",
        "Cancel a message that no provider has been given.",
        more="It is not sent, and its units are available again. It may be called again.",
        scope="send",
        path=MESSAGE,
        body=_NOTHING,
        is_body_optional=True,
        answers={
            200: Answer(
                CanceledMessage,
                example={
                    "id": "01a202a3-c111-7fd3-92d4-9ad3082ddfbb", "status": "canceled",
                    "charge": "released", "units": 1,
                },
            )
        },
        codes=(*_NOT_CANCELED, "older_version"),
        once=True,
    )  # fmt: skip
    async def message(self, request: web.Request) -> Response:
        """`POST /v1/messages/{id}/cancel`: 200; the message is not sent, and its units are released.

        Safe to repeat. Raises Refusal 400, 401, 403, 404, 409, 413, 422, Unavailable.
        """
        organisation_id = await self._keys.owner(request.headers.get(hdrs.AUTHORIZATION), request)
        return await self._repeats.once(request, organisation_id, partial(self._message, organisation_id))

    async def _message(self, organisation_id: int, request: web.Request) -> Response:
        _NOTHING.decode_optional(await read_body(request, self._body_bytes_max))
        message_id = request.match_info["id"]
        if _UUID.fullmatch(message_id):
            canceled = await self._cancels.message(organisation_id, message_id.lower())
            if canceled is not None:
                return answer_of(200, canceled)
        raise not_found("The organisation has no message with this id.")

    @described(
        "cancel_batch",
        "Cancel the messages of a batch that no provider has been given.",
        more="`not_canceled` has how many are not, by the code of the reason. It may be called again.",
        scope="send",
        path=BATCH,
        body=_NOTHING,
        is_body_optional=True,
        answers={
            200: Answer(
                CanceledBatch,
                example={
                    "id": "01a202a3c1117fd392d49ad3082ddfbb-1000", "canceled": 48, "units": 48,
                    "not_canceled": {"already_sent": 952},
                },
            )
        },
        codes=("older_version",),
        once=True,
    )  # fmt: skip
    async def batch(self, request: web.Request) -> Response:
        """`POST /v1/batches/{id}/cancel`: 200 with how many of its messages are canceled.

        Safe to repeat. Raises Refusal 400, 401, 403, 404, 413, 422, Unavailable.
        """
        organisation_id = await self._keys.owner(request.headers.get(hdrs.AUTHORIZATION), request)
        return await self._repeats.once(request, organisation_id, partial(self._batch, organisation_id))

    async def _batch(self, organisation_id: int, request: web.Request) -> Response:
        _NOTHING.decode_optional(await read_body(request, self._body_bytes_max))
        batch = batch_of(request.match_info["id"])
        canceled = None if batch is None else await self._cancels.batch(organisation_id, batch)
        if canceled is None:
            raise no_batch()
        return answer_of(200, canceled)

    @described(
        "cancel_campaign",
        "Cancel the messages of a campaign that no provider has been given.",
        more="They are those whose `reference` is its name, or begins with it and one of `- _ / : .` or a "
        "blank. A call cancels about 10,000 at most; call it again with `cursor` until `next` is null.",
        scope="send",
        body=_CAMPAIGN,
        examples={"the first call": {"campaign": "spring"}},
        answers={
            200: Answer(
                CanceledCampaign,
                example={
                    "campaign": "spring", "canceled": 10_012, "units": 10_012,
                    "not_canceled": {"being_sent": 3}, "next": "normal:list:4711",
                },
            )
        },
        codes=("older_version",),
        once=True,
    )  # fmt: skip
    async def campaign(self, request: web.Request) -> Response:
        """`POST /v1/messages/cancel`: 200 with how many of its messages this call canceled.

        Safe to repeat. Raises Refusal 400, 401, 403, 413, 422, Unavailable.
        """
        organisation_id = await self._keys.owner(request.headers.get(hdrs.AUTHORIZATION), request)
        return await self._repeats.once(request, organisation_id, partial(self._campaign, organisation_id))

    async def _campaign(self, organisation_id: int, request: web.Request) -> Response:
        asked = _CAMPAIGN.decode(await read_body(request, self._body_bytes_max))
        if "\0" in asked.campaign:
            raise invalid("`campaign` must not contain U+0000.", "campaign")
        place = place_of(asked.cursor or "")
        if place is None:
            raise invalid("`cursor` must be the `next` of the call before.", "cursor")
        return answer_of(200, await self._cancels.campaign(organisation_id, asked.campaign, place))
