"""Inbound messages: where providers push them, where organisations list them, and whose they are.

A provider has the address `/v1/providers/{name}/inbound/{token}`, with the token of its receipts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

import msgspec
from aiohttp import hdrs, web

from engine.api.auth import Keys
from engine.api.decoding import Shape, invalid, read_body
from engine.api.description import ID, TEXT, Answer, Parameter, described
from engine.api.known_organisations import check_exists
from engine.api.paging import asked, limit_asked
from engine.api.parameters import LIMIT
from engine.api.ports import AdminServices, CommonServices, Services
from engine.api.pushes import answer_push, until_kept
from engine.api.recipient_ports import InboundPage
from engine.api.response import Response, answer_of
from engine.changes import describe
from engine.inbound.own_numbers import own_number
from engine.inbound.ports import InboundSink
from engine.inbound.records import InboundMessage, InboundPart, InboundRoute, ShownMessage, shown
from engine.inbound.whole import whole_message
from engine.intake.phone_numbers import e164_in

# As `_cursor` writes it: microseconds since 1970, and an id.
_CURSOR = re.compile(r"([0-9]{1,16})\.([0-9a-f-]{36})")
_NEWEST = (253_402_300_799_000_000, "")
_TEXT_MAX = 5_000
# What stands in place of a provider for what an operator has written.
_BY_OPERATOR = "operator"


class _Page(msgspec.Struct):
    # The newest first.
    inbound_messages: list[ShownMessage]
    # The `cursor` of the next page; null on the last.
    next: str | None


class _AdminPage(msgspec.Struct):
    inbound_messages: list[InboundMessage]
    next: str | None


class _Routes(msgspec.Struct):
    inbound_routes: list[InboundRoute]


class _NewRoute(msgspec.Struct, forbid_unknown_fields=True):
    number: str
    organisation_id: int
    keyword: str = ""


class _OldRoute(msgspec.Struct, forbid_unknown_fields=True):
    number: str
    keyword: str = ""


class _Written(msgspec.Struct, forbid_unknown_fields=True):
    sender: str = msgspec.field(name="from")
    recipient: str = msgspec.field(name="to")
    text: str


_NUMBER = 'a number or short code as a string, such as "12345"'
_WORD = "a word as a string, or empty"
_ROUTE = Shape(
    _NewRoute,
    "a route",
    {"number": _NUMBER, "keyword": _WORD, "organisation_id": "the id of an organisation, a whole number"},
)
_REMOVAL = Shape(_OldRoute, "a route to remove", {"number": _NUMBER, "keyword": _WORD})
_MESSAGE = Shape(
    _Written,
    "an inbound message",
    {
        "from": 'a phone number in E.164 as a string, such as "+4915112345678"',
        "to": _NUMBER,
        "text": f"a string of at most {_TEXT_MAX} characters",
    },
)


_CURSOR_OF = {"cursor": Parameter("The `next` of the page before.", TEXT)}


class InboundPushes:
    """The actions on the addresses where providers push messages."""

    def __init__(self, services: Services) -> None:
        self._readers = services.inbound_readers
        self._sink = services.recipients.inbound
        self._now_us = services.now_us
        self._body_bytes_max = services.body_bytes_max

    @described(
        "push_inbound",
        "Take messages that a provider pushes, in the form that the provider's section describes.",
        more="The answer is what that section says. The word in the path is the provider's `receipt_token`.",
        path={
            "name": Parameter("The name of the provider.", TEXT, "provider"),
            "token": Parameter("Its `receipt_token`.", TEXT, "receipt_token"),
        },
        answers={200: Answer(None, "The messages are kept.", content_type="*/*")},
        codes=("invalid_receipt", "too_large", "too_many"),
        any_query=True,
    )
    async def take(self, request: web.Request) -> Response:
        """Take a request with messages: the answer that the provider expects, once they are in Redis.

        Raises Refusal 404 for an unknown address, 400, 413 or 422 for a request that cannot be read, after
        what could be read of it is kept; Unavailable when it cannot be kept.
        """
        keeping = partial(keep, self._sink)
        return await answer_push(
            request, self._readers, keeping, body_bytes_max=self._body_bytes_max, now_us=self._now_us
        )


class OwnInbound:
    """The action on /v1/inbound-messages."""

    def __init__(self, services: CommonServices, keys: Keys) -> None:
        self._page = services.recipients.inbound_page
        self._keys = keys

    @described(
        "list_inbound_messages",
        "List what recipients wrote, the newest first.",
        scope="read",
        query=LIMIT | _CURSOR_OF,
        answers={200: _Page},
    )
    async def show(self, request: web.Request) -> Response:
        """`GET /v1/inbound-messages`: 200 with a page of them, the newest first.

        Raises Refusal 401, 403, 422, Unavailable.
        """
        organisation_id = await self._keys.organisation(request.headers.get(hdrs.AUTHORIZATION), request)
        found, cursor = await _page_of(request, self._page, organisation_id)
        return answer_of(200, _Page([shown(message) for message in found], cursor))


class InboundCalls:
    """The operator's actions on inbound messages and on their routes."""

    def __init__(self, services: AdminServices) -> None:
        recipients = services.recipients
        self._page, self._routes = recipients.inbound_page, recipients.inbound_routes
        self._sink, self._now_us = recipients.inbound, recipients.now_us
        self._body_bytes_max = services.body_bytes_max
        self._directory = services.directory

    @described(
        "list_all_inbound_messages",
        "List what recipients wrote to one organisation, or to nobody.",
        query={"organisation": Parameter("That of this id; without it what is nobody's.", ID)}
        | LIMIT
        | _CURSOR_OF,
        answers={200: _AdminPage},
        codes=("not_found",),
    )
    async def show(self, request: web.Request) -> Response:
        """`GET /inbound-messages?organisation=`: 200 with a page of those of one, or of nobody.

        Raises Refusal 401, 404, 422, Unavailable.
        """
        organisation_id = asked(request, "organisation", 0)
        found, cursor = await _page_of(request, self._page, organisation_id)
        if organisation_id and not found:
            await check_exists(self._directory, organisation_id)
        return answer_of(200, _AdminPage(found, cursor))

    @described(
        "write_inbound_message",
        "Take a message as if a recipient had written it.",
        more="`from` is read as the `to` of a message is.",
        body=_MESSAGE,
        codes=("invalid_number",),
        limits={"text": {"maxLength": _TEXT_MAX}, "from": {"minLength": 1}, "to": {"minLength": 1}},
        examples={"a word": {"from": "+4915112345678", "to": "12345", "text": "hello"}},
        answers={202: Answer(dict[str, str], example={"status": "kept"})},
    )
    async def write(self, request: web.Request) -> Response:
        """`POST /inbound-messages`: 202 when a message, as if a recipient had written it, is in Redis.

        Raises Refusal 400, 401, 413, 422, Unavailable.
        """
        given = _MESSAGE.decode(await read_body(request, self._body_bytes_max))
        sender = e164_in("from", given.sender)
        own_number("to", given.recipient)
        if len(given.text) > _TEXT_MAX:
            raise invalid(f"`text` must be a string of at most {_TEXT_MAX} characters.", "text")
        now_us = self._now_us()
        # Each call is a message of its own, also when it says the same.
        part = whole_message(
            _BY_OPERATOR, sender, given.recipient, given.text, f"{now_us}.{id(request)}", now_us
        )
        await keep(self._sink, [part])
        describe(None, {"to": given.recipient})
        return answer_of(202, {"status": "kept"})

    @described("list_inbound_routes", "List whose inbound messages are.", answers={200: _Routes})
    async def show_routes(self, request: web.Request) -> Response:
        """`GET /inbound-routes`: 200 with all of them. Raises Refusal 401, Unavailable."""
        return answer_of(200, _Routes(await self._routes.routes()))

    @described(
        "put_inbound_route",
        "Say whose the messages to a number are, or those that begin with a word.",
        body=_ROUTE,
        examples={"the first": {"number": "12345", "organisation_id": 1}},
        answers={200: InboundRoute},
        codes=("not_found",),
    )
    async def put_route(self, request: web.Request) -> Response:
        """`PUT /inbound-routes`: 200 with the one route as it is kept. Safe to repeat.

        Raises Refusal 400, 401, 404, 413, 422, Unavailable.
        """
        wanted = _ROUTE.decode(await read_body(request, self._body_bytes_max))
        route = InboundRoute(
            number=wanted.number, keyword=wanted.keyword, organisation_id=wanted.organisation_id
        )
        return answer_of(200, await self._routes.put(route))

    @described(
        "remove_inbound_route",
        "Let the messages to a number be nobody's.",
        body=_REMOVAL,
        examples={"the first": {"number": "12345"}},
        answers={204: None},
    )
    async def remove_route(self, request: web.Request) -> Response:
        """`POST /inbound-routes/remove`: 204, also when there is none. Raises as `put_route` does."""
        wanted = _REMOVAL.decode(await read_body(request, self._body_bytes_max))
        await self._routes.remove(wanted.number, wanted.keyword)
        return Response(204)


async def keep(sink: InboundSink, parts: Sequence[tuple[InboundPart, bytes, int]]) -> None:
    """Put messages into Redis. Raises Unavailable when that was not possible."""
    await until_kept(partial(sink.put, parts), "messages")


async def _page_of(
    request: web.Request, page: InboundPage, organisation_id: int
) -> tuple[list[InboundMessage], str | None]:
    limit = limit_asked(request)
    given = request.query.get("cursor")
    before = _NEWEST
    if given:
        match = _CURSOR.fullmatch(given)
        if match is None:
            raise invalid("`cursor` must be the `next` of a page before.", "cursor")
        before = (int(match[1]), match[2])
    found = await page(organisation_id, before, limit + 1)
    more = len(found) > limit
    return found[:limit], _cursor(found[limit - 1]) if more else None


def _cursor(message: InboundMessage) -> str:
    return f"{round(message.at.timestamp() * 1e6)}.{message.id}"
