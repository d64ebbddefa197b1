"""The messages of an organisation, one or as a list, and what has become of a batch; also for operators."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TypeVar, get_args

import msgspec
from aiohttp import hdrs, web

from engine import ids
from engine.activity.batches import BatchProgress
from engine.activity.history import MessageView
from engine.activity.message_list import MessagePage
from engine.activity.records import MessageFilter
from engine.api.admin import organisation_id_of
from engine.api.auth import Keys
from engine.api.decoding import check_time, invalid
from engine.api.description import TEXT, TIME, Answer, Parameter, described
from engine.api.known_organisations import check_exists
from engine.api.message_ports import Lists
from engine.api.paging import asked
from engine.api.parameters import BATCH, MESSAGE, ORGANISATION
from engine.api.ports import AdminServices, CommonServices, History
from engine.api.problems import not_found
from engine.api.response import Response, answer_of
from engine.batches import Batch, batch_of
from engine.intake.phone_numbers import e164
from engine.lifecycle import STATUSES, Status
from engine.records import QUEUES, Queue

T = TypeVar("T")

_LIMIT, _LIMIT_MAX = 100, 500
_REFERENCE_MAX = 200

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_MORE = (
    "It is made of what is archived, a second or so behind: what happened before `as_of` is in it. A page "
    "may be short, also empty, while `next` goes on."
)
_FILTERS = {
    "status": Parameter("Only those of this status.", {"enum": list(STATUSES)}),
    "to": Parameter("Only those to this recipient.", TEXT),
    "reference": Parameter("Only those with this reference.", {"type": "string", "maxLength": 200}),
    "queue": Parameter("Only those of this queue.", {"enum": list(QUEUES)}),
    "batch": Parameter("Only those of the batch with this id.", TEXT),
    "since": Parameter("Only those that were accepted from then on.", TIME),
    "until": Parameter("Only those that were accepted before then.", TIME),
    "limit": Parameter(
        "How many messages the page may have.",
        {"type": "integer", "minimum": 1, "maximum": _LIMIT_MAX, "default": _LIMIT},
    ),
    "cursor": Parameter("The `next` of the page before.", TEXT),
}
_EVENT = {
    "at": "2026-11-22T09:43:35.953000Z", "event": "accepted", "status": "accepted", "provider": "",
    "provider_message_id": "", "code": "", "attempt": 0, "segment": 0, "latency_ms": 0.0,
}  # fmt: skip
_VIEW = {
    "id": "01a202a3-c111-7fd3-92d4-9ad3082ddfbb", "status": "accepted", "charge": "held", "queue": "express",
    "to": "+4915112345678", "from": "ACME", "encoding": "GSM-7", "segments": 1, "price": 1, "units": 1,
    "reference": "order-1", "accepted_at": "2026-11-22T09:43:35.953000Z",
    "expires_at": "2026-11-22T09:48:35.953000Z", "provider": "", "attempts": 0, "outcome_unknown": False,
    "history_complete": True, "events": [_EVENT], "text": None,
}  # fmt: skip


class MessageListCalls:
    """The actions `GET /v1/messages`, `GET /v1/messages/{id}` and `GET /v1/batches/{id}`."""

    def __init__(self, services: CommonServices, keys: Keys) -> None:
        self._lists = services.lists
        self._history = services.history
        self._batches = services.batches
        self._keys = keys

    @described(
        "list_messages",
        "List messages, the newest first.",
        more=_MORE,
        scope="read",
        query=_FILTERS,
        answers={200: MessagePage},
        codes=("invalid_number",),
    )
    async def page(self, request: web.Request) -> Response:
        """`GET /v1/messages`: 200 with the page that the query asks for, the newest first.

        Raises Refusal 401, 403, 422, Unavailable.
        """
        organisation_id = await self._keys.organisation(request.headers.get(hdrs.AUTHORIZATION), request)
        return answer_of(200, await _page(self._lists, request, organisation_id))

    @described(
        "get_message",
        "Show one message with its history.",
        scope="read",
        path=MESSAGE,
        answers={200: Answer(MessageView, example=_VIEW)},
    )
    async def message(self, request: web.Request) -> Response:
        """`GET /v1/messages/{id}`: 200 with the message and its history. Raises Refusal 401, 404,
        Unavailable."""
        organisation_id = await self._keys.organisation(request.headers.get(hdrs.AUTHORIZATION), request)
        return answer_of(200, await _message(self._history, request, organisation_id))

    @described(
        "get_batch",
        "Show how many messages of a batch have which status.",
        scope="read",
        path=BATCH,
        answers={200: BatchProgress},
    )
    async def batch(self, request: web.Request) -> Response:
        """`GET /v1/batches/{id}`: 200 with how many of its messages have which status.

        Raises Refusal 401, 403, 404, Unavailable.
        """
        organisation_id = await self._keys.organisation(request.headers.get(hdrs.AUTHORIZATION), request)
        batch = batch_of(request.match_info["id"])
        progress = None if batch is None else await self._batches.progress(organisation_id, batch)
        if progress is None:
            raise no_batch()
        return answer_of(200, progress)


class AllMessages:
    """The same of any organisation, for operators: its messages, and one of them."""

    def __init__(self, services: AdminServices) -> None:
        self._lists = services.lists
        self._history = services.history
        self._directory = services.directory

    @described(
        "list_messages_of",
        "List messages of an organisation, the newest first.",
        more=_MORE,
        path=ORGANISATION,
        query=_FILTERS,
        answers={200: MessagePage},
        codes=("invalid_number",),
    )
    async def page(self, request: web.Request) -> Response:
        """`GET /organisations/{organisation_id}/messages`: 200 with a page, as `GET /v1/messages`.

        Raises Refusal 401, 403, 404, 422, Unavailable.
        """
        organisation_id = organisation_id_of(request)
        page = await _page(self._lists, request, organisation_id)
        if not page.messages:
            await check_exists(self._directory, organisation_id)
        return answer_of(200, page)

    @described(
        "get_message_of",
        "Show one message of an organisation with its history.",
        path={**ORGANISATION, **MESSAGE},
        answers={200: Answer(MessageView, example=_VIEW)},
    )
    async def message(self, request: web.Request) -> Response:
        """`GET /organisations/{organisation_id}/messages/{id}`: 200 with the message and its history, without
        its text, which is its organisation's alone.

        Raises Refusal 401, 403, 404, Unavailable.
        """
        view = await _message(self._history, request, organisation_id_of(request))
        return answer_of(200, msgspec.structs.replace(view, text=None))


async def _page(lists: Lists, request: web.Request, organisation_id: int) -> MessagePage:
    """Raises Refusal 422, Unavailable."""
    limit = asked(request, "limit", _LIMIT, 1, _LIMIT_MAX)
    cursor = request.query.get("cursor") or ""
    if cursor and ids.accepted_at_us(cursor) is None:
        raise invalid("`cursor` must be the `next` of a page.", "cursor")
    return await lists.page(organisation_id, _filter(request), cursor, limit)


async def _message(history: History, request: web.Request, organisation_id: int) -> msgspec.Struct:
    """The message that the path names. Raises Refusal 404, Unavailable."""
    message_id = request.match_info["id"]
    if _UUID.fullmatch(message_id):
        view = await history(organisation_id, message_id.lower())
        if view is not None:
            return view
    raise not_found("The organisation has no message with this id.")


def no_batch() -> Exception:
    """The refusal of a batch that is none of the organisation's."""
    return not_found("The organisation has no batch with this id.")


def _filter(request: web.Request) -> MessageFilter:
    """Raises Refusal 422."""
    query = request.query
    status: Status | None = _one_of(request, "status", STATUSES)
    queue: Queue | None = _one_of(request, "queue", get_args(Queue) or QUEUES)
    reference = query.get("reference") or ""
    if len(reference) > _REFERENCE_MAX or "\0" in reference:
        raise invalid(
            f"`reference` must be at most {_REFERENCE_MAX} characters, without U+0000.", "reference"
        )
    since, until = _time(request, "since"), _time(request, "until")
    if since is not None and until is not None and since >= until:
        raise invalid("`since` must be before `until`.", "since")
    # A plus that was not escaped is a blank.
    to = query.get("to") or ""
    return MessageFilter(
        status=status,
        to=e164("+" + to[1:] if to.startswith(" ") else to) if to else "",
        reference=reference,
        queue=queue or "",
        since_us=_us(since),
        until_us=_us(until),
        batch=_batch(query.get("batch") or ""),
    )


def _one_of(request: web.Request, name: str, choices: tuple[T, ...]) -> T | None:
    value = request.query.get(name)
    if not value:
        return None
    for choice in choices:
        if choice == value:
            return choice
    raise invalid(f"`{name}` must be one of {', '.join(map(str, choices))}.", name)


def _batch(text: str) -> Batch | None:
    batch = batch_of(text) if text else None
    if text and batch is None:
        raise invalid("`batch` must be the id of a batch.", "batch")
    return batch


def _time(request: web.Request, name: str) -> datetime | None:
    """The time `name` of the query; None when there is none. Raises Refusal 422."""
    text = request.query.get(name)
    if not text:
        return None
    try:
        # As for the reference: a plus of the offset may have become a blank.
        time = msgspec.convert(text.replace(" ", "+"), datetime)
    except msgspec.ValidationError:
        time = datetime.min
    check_time(name, time)
    return time


def _us(time: datetime | None) -> int:
    """Microseconds since 1970, as ClickHouse can compare them; 0 for None."""
    if time is None:
        return 0
    return max(1, min(int(time.timestamp() * 1_000_000), 4_000_000_000_000_000))
