"""The operator's calls for what the books lack: list usage they could not cover and book it, list what was
lost and rebuild it."""

from __future__ import annotations

import msgspec
from aiohttp import web

from engine.api.decoding import Shape, read_body
from engine.api.description import described
from engine.api.paging import NUMBER, asked, limit_asked
from engine.api.parameters import AFTER, LIMIT, ORGANISATION
from engine.api.ports import AdminServices
from engine.api.problems import not_found
from engine.api.response import Response, answer_of
from engine.changes import describe
from engine.organisations import BookedUsage, LossSum, Rebuilding, UnbookedSum


class _Booking(msgspec.Struct, forbid_unknown_fields=True):
    write_off: str | None = None
    name: str | None = None


class _Rebuilding(msgspec.Struct, forbid_unknown_fields=True):
    dry_run: bool = False


class _Losses(msgspec.Struct):
    losses: list[LossSum]


class _Sums(msgspec.Struct):
    unbooked: list[UnbookedSum]
    # The `after` of the next page; null on the last.
    next: int | None


_BOOKING = Shape(
    _Booking,
    "how to book",
    {
        "write_off": "the reason for which missing units are given, a string of 1 to 150 characters",
        "name": "the name of an organisation that is missing, a string of 1 to 200 characters",
    },
)


_REBUILDING = Shape(_Rebuilding, "what to rebuild", {"dry_run": "true or false"})
# How long rebuilding may take, seconds.
REBUILD_S = 600


class UnbookedUsage:
    """The actions on /v1/admin/unbooked and /v1/admin/losses."""

    def __init__(self, services: AdminServices) -> None:
        self._unbooked = services.unbooked
        self._losses = services.losses
        self._body_bytes_max = services.body_bytes_max

    @described(
        "list_unbooked",
        "List usage that the books lack after PostgreSQL went back, by organisation.",
        query=AFTER | LIMIT,
        answers={200: _Sums},
    )
    async def sums(self, request: web.Request) -> Response:
        """`GET /unbooked`: 200 with the page that `?after=` and `?limit=` ask for, by organisation.

        Raises Refusal 401, 422, Unavailable.
        """
        after, limit = asked(request, "after", 0), limit_asked(request)
        # One more than asked for tells whether there is another page.
        found = await self._unbooked.sums(after, limit + 1)
        page = found[:limit]
        return answer_of(200, _Sums(page, page[-1].organisation_id if len(found) > limit else None))

    @described(
        "book_unbooked",
        "Book the usage of an organisation that the books lack, as a whole.",
        path=ORGANISATION,
        body=_BOOKING,
        is_body_optional=True,
        limits={"write_off": {"minLength": 1, "maxLength": 150}, "name": {"minLength": 1, "maxLength": 200}},
        examples={"to give what is missing": {"write_off": "PostgreSQL went back"}},
        answers={200: BookedUsage},
        codes=("units_missing", "organisation_missing"),
    )
    async def book(self, request: web.Request) -> Response:
        """`POST /unbooked/{organisation_id}/book`: 200 with an `organisations.BookedUsage`.

        A second one finds nothing to book: 404. Raises Refusal 400, 401, 404, 409, 413, 422, Unavailable.
        """
        wanted = _BOOKING.decode_optional(await read_body(request, self._body_bytes_max))
        digits = request.match_info["organisation_id"]
        if not NUMBER.fullmatch(digits):
            raise not_found("No usage of this organisation waits to be booked.")
        return answer_of(200, await self._unbooked.book(int(digits), wanted.write_off, wanted.name))

    @described(
        "list_losses",
        "List what was lost when Redis or PostgreSQL went back, the last first.",
        answers={200: _Losses},
    )
    async def losses(self, request: web.Request) -> Response:
        """`GET /losses`: 200 with what was lost when Redis or PostgreSQL went back, the last first.

        Raises Refusal 401, Unavailable.
        """
        return answer_of(200, _Losses(await self._losses.losses()))

    @described(
        "rebuild_losses",
        "Book what PostgreSQL lost, from the recorded activity.",
        body=_REBUILDING,
        is_body_optional=True,
        examples={"to look first": {"dry_run": True}},
        answers={200: Rebuilding},
    )
    async def rebuild(self, request: web.Request) -> Response:
        """`POST /losses/rebuild`: 200 with an `organisations.Rebuilding`; safe to repeat.

        Raises Refusal 400, 401, 413, 422, Unavailable.
        """
        wanted = _REBUILDING.decode_optional(await read_body(request, self._body_bytes_max))
        done = await self._losses.rebuild(dry_run=wanted.dry_run, timeout_s=REBUILD_S)
        describe(None, done)
        return answer_of(200, done)
