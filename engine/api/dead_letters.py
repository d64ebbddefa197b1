"""The operator's calls on dead letters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from engine.api.decoding import Shape, invalid, read_body
from engine.api.description import ID, TEXT, Parameter, described
from engine.api.paging import asked, choice_asked, limit_asked
from engine.api.parameters import DEAD_LETTER, LIMIT
from engine.api.ports import AdminServices
from engine.api.problems import not_found
from engine.api.response import Response, answer_of
from engine.changes import describe
from engine.delivery.dead_letters import DeadLetter, DeadLetterId
from engine.errors import Unavailable
from engine.records import QUEUES, Queue


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    pass


class _Page(msgspec.Struct):
    dead_letters: list[DeadLetter]
    # The `cursor` of the next page; null on the last.
    next: str | None


class _Shown(DeadLetter, frozen=True, kw_only=True):
    """A dead letter with the history of its message."""

    # As in `GET /v1/messages/{id}`; null: not known, and `events_missing` says why.
    events: list[object] | None
    events_missing: str = ""


_NOTHING = Shape(_Nothing, "a replay or a drop", {})
_QUEUES: dict[str, Queue | None] = {"": None, **{queue: queue for queue in QUEUES}}


class DeadLetters:
    """The actions on /v1/admin/dead-letters."""

    def __init__(self, services: AdminServices) -> None:
        self._letters = services.dead_letters
        self._history = services.history
        self._body_bytes_max = services.body_bytes_max

    @described(
        "list_dead_letters",
        "List messages that were set aside, by queue, shard and age, the oldest first.",
        query={
            "queue": Parameter("Only those of this queue.", {"enum": list(QUEUES)}),
            "organisation": Parameter("Only those of the organisation with this id.", ID),
            "cursor": Parameter("The `next` of the page before.", TEXT),
        }
        | LIMIT,
        answers={200: _Page},
    )
    async def show_all(self, request: web.Request) -> Response:
        """`GET /v1/admin/dead-letters`: 200 with the page that `?queue=`, `?organisation=`, `?cursor=` and
        `?limit=` ask for. Raises Refusal 401, 422, Unavailable."""
        limit, after = limit_asked(request), _cursor(request)
        queue = choice_asked(request, "queue", _QUEUES)
        organisation_id = asked(request, "organisation", 0, 1) or None
        # One more than asked for tells whether there is another page.
        found = await self._letters.page(queue, organisation_id, after, limit + 1)
        page = found[:limit]
        return answer_of(200, _Page(page, page[-1].id if len(found) > limit else None))

    @described(
        "get_dead_letter",
        "Show one dead letter, and what has happened to its message.",
        path=DEAD_LETTER,
        answers={200: _Shown},
    )
    async def show(self, request: web.Request) -> Response:
        """`GET /v1/admin/dead-letters/{id}`: 200 with that one and what has happened to its message.

        Raises Refusal 401, 404, Unavailable.
        """
        letter = await self._letters.letter(_named(request))
        events, missing = await self._events(letter)
        fields = msgspec.structs.asdict(letter)
        return answer_of(200, _Shown(**fields, events=events, events_missing=missing))

    async def _events(self, letter: DeadLetter) -> tuple[list[object] | None, str]:
        """(the events of the message, None when they are not known; why they are not)."""
        if not letter.readable:
            return None, "Another version of the engine wrote the message."
        try:
            view = await self._history(letter.organisation_id, letter.message_id)
        except Unavailable as e:
            return None, e.detail
        # Of the view only these: the rest has the whole number.
        events = None if view is None else msgspec.to_builtins(view).get("events")
        return events, "" if events is not None else "No event of the message is recorded."

    @described(
        "replay_dead_letter",
        "Put a dead letter into its queue again.",
        more="The recipient may get the message twice; it is charged once.",
        path=DEAD_LETTER,
        body=_NOTHING,
        is_body_optional=True,
        answers={200: DeadLetter},
        codes=("validity_over", "unreadable"),
    )
    async def replay(self, request: web.Request) -> Response:
        """`POST /v1/admin/dead-letters/{id}/replay`: 200 with it; it is in its queue again.

        Again it is 404. Raises Refusal 400, 401, 404, 409, 413, 422, Unavailable.
        """
        return await self._end(request, self._letters.replay, "replayed")

    @described(
        "drop_dead_letter",
        "Give a dead letter up, and release its units.",
        path=DEAD_LETTER,
        body=_NOTHING,
        is_body_optional=True,
        answers={200: DeadLetter},
        codes=("unreadable",),
    )
    async def drop(self, request: web.Request) -> Response:
        """`POST /v1/admin/dead-letters/{id}/drop`: 200 with it; its units are released. Raises as `replay`
        does."""
        return await self._end(request, self._letters.drop, "dropped")

    async def _end(
        self, request: web.Request, step: Callable[[DeadLetterId], Awaitable[DeadLetter]], state: str
    ) -> Response:
        _NOTHING.decode_optional(await read_body(request, self._body_bytes_max))
        letter = await step(_named(request))
        of = {
            "message_id": letter.message_id,
            "organisation_id": letter.organisation_id,
            "units": letter.units,
        }
        describe(of | {"state": "dead"}, of | {"state": state})
        return answer_of(200, letter)


def _named(request: web.Request) -> DeadLetterId:
    """The id in the path. Raises Refusal 404."""
    try:
        return DeadLetterId.parse(request.match_info["letter_id"])
    except ValueError as e:
        raise not_found("There is no dead letter with this id.") from e


def _cursor(request: web.Request) -> DeadLetterId | None:
    """Raises Refusal 422."""
    value = request.query.get("cursor")
    try:
        return DeadLetterId.parse(value) if value else None
    except ValueError as e:
        raise invalid("`cursor` must be the `next` of another page.", "cursor") from e
