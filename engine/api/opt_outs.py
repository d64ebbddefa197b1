"""Opt-outs: the recipients who want no messages of an organisation.

The organisation has the calls under /v1/opt-outs, and operators have the same for each organisation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import msgspec
from aiohttp import hdrs, web

from engine.api.admin import organisation_id_of
from engine.api.admin_route import AdminRoute
from engine.api.auth import Keys
from engine.api.decoding import Shape, invalid, read_body
from engine.api.description import TEXT, Parameter, described, like
from engine.api.guard import Action
from engine.api.paging import asked, limit_asked
from engine.api.parameters import AFTER_NUMBER, LIMIT
from engine.api.ports import CommonServices
from engine.api.repeats import Repeats
from engine.api.response import Response, answer_of
from engine.errors import Refusal
from engine.intake.phone_numbers import e164_in
from engine.intake.records import OptOut, OptOutSource

OWN_OPT_OUTS = "/v1/opt-outs"
NUMBERS_MAX = 10_000


class _Numbers(msgspec.Struct, forbid_unknown_fields=True):
    numbers: list[str]


class _Page(msgspec.Struct):
    # By the digits of their numbers.
    opt_outs: list[OptOut]
    # The `cursor` of the next page; null on the last.
    next: int | None


class _Added(msgspec.Struct):
    # How many had not opted out before.
    added: int


class _Removed(msgspec.Struct):
    # How many had opted out.
    removed: int


_NUMBERS = Shape(
    _Numbers, "a list of opt-outs", {"numbers": f"an array of 1 to {NUMBERS_MAX} phone numbers in E.164"}
)


class OptOuts:
    """The actions on the opt-outs of one organisation."""

    def __init__(self, services: CommonServices) -> None:
        self._book = services.recipients.opt_outs
        self._body_bytes_max = services.body_bytes_max
        self._repeats = Repeats(services.answers, services.body_bytes_max)

    def of_callers(self, keys: Keys, path: str) -> dict[str, dict[str, Action]]:
        """The actions of organisations on their own opt-outs, by path and method."""

        def reading(answer: _Answer) -> Action:
            async def action(request: web.Request) -> Response:
                return await answer(
                    request, await keys.organisation(request.headers.get(hdrs.AUTHORIZATION), request), "api"
                )

            return like(answer, action)

        def changing(answer: _Answer) -> Action:
            async def action(request: web.Request) -> Response:
                return await answer(
                    request,
                    await keys.manager(request.headers.get(hdrs.AUTHORIZATION), request, "send"),
                    "api",
                )

            return self._repeats.of_callers(keys, like(answer, action))

        return {
            path: {"GET": reading(self._page), "POST": changing(self._add)},
            f"{path}/remove": {"POST": changing(self._remove)},
            f"{path}/{{number}}": {"GET": reading(self._show)},
        }

    def of_operators(self, path: str) -> Iterator[AdminRoute]:
        """The same for operators, on the organisation that the path names."""

        def action(answer: _Answer) -> Action:
            async def act(request: web.Request) -> Response:
                return await answer(request, organisation_id_of(request), "admin")

            return like(answer, act)

        yield AdminRoute("GET", path, action(self._page), "read")
        yield AdminRoute("POST", path, action(self._add), "operate")
        yield AdminRoute("POST", f"{path}/remove", action(self._remove), "operate")
        yield AdminRoute("GET", f"{path}/{{number}}", action(self._show), "read")

    @described(
        "list_opt_outs",
        "List the numbers that want no messages, by their digits.",
        scope="read",
        query=LIMIT | AFTER_NUMBER,
        answers={200: _Page},
    )
    async def _page(self, request: web.Request, organisation_id: int, _: OptOutSource) -> Response:
        """`GET`: 200 with a page of them. Raises Refusal 401, 404, 422, Unavailable."""
        limit = limit_asked(request)
        found = await self._book.listed(organisation_id, asked(request, "cursor", 0), limit + 1)
        page = found[:limit]
        return answer_of(200, _Page(page, int(page[-1].number[1:]) if len(found) > limit else None))

    @described(
        "get_opt_out",
        "Show one number that wants no messages.",
        scope="read",
        path={"number": Parameter("The number in E.164.", TEXT, "opt_out")},
        answers={200: OptOut},
        codes=("invalid_number",),
    )
    async def _show(self, request: web.Request, organisation_id: int, _: OptOutSource) -> Response:
        """`GET .../{number}`: 200 with that one. Raises Refusal 401, 404, 422, Unavailable."""
        number = e164_in("number", request.match_info["number"])
        return answer_of(200, await self._book.one(organisation_id, number))

    @described(
        "add_opt_outs",
        "Send no messages to some numbers any more.",
        scope="send|admin",
        body=_NUMBERS,
        limits={"numbers": {"minItems": 1, "maxItems": NUMBERS_MAX}},
        examples={"one number": {"numbers": ["+4915112345699"]}},
        answers={200: _Added},
        codes=("batch_too_large", "invalid_number"),
    )
    async def _add(self, request: web.Request, organisation_id: int, source: OptOutSource) -> Response:
        """`POST`: 200 with how many were new. Safe to repeat; one that is refused has added none.

        Raises Refusal 400, 401, 404, 413, 422, Unavailable.
        """
        numbers = await self._numbers(request)
        return answer_of(200, _Added(await self._book.add(organisation_id, numbers, source)))

    @described(
        "remove_opt_outs",
        "Let some numbers get messages again.",
        scope="send|admin",
        body=_NUMBERS,
        limits={"numbers": {"minItems": 1, "maxItems": NUMBERS_MAX}},
        examples={"one number": {"numbers": ["+4915112345699"]}},
        answers={200: _Removed},
        codes=("batch_too_large", "invalid_number"),
    )
    async def _remove(self, request: web.Request, organisation_id: int, source: OptOutSource) -> Response:
        """`POST .../remove`: 200 with how many had opted out. Safe to repeat; one that is refused
        removed none.

        Raises Refusal 400, 401, 404, 413, 422, Unavailable.
        """
        numbers = await self._numbers(request)
        return answer_of(200, _Removed(await self._book.remove(organisation_id, numbers, source)))

    async def _numbers(self, request: web.Request) -> list[str]:
        """The numbers in the body, in E.164. Raises Refusal 400, 413, 422."""
        wanted = _NUMBERS.decode(await read_body(request, self._body_bytes_max)).numbers
        if not wanted:
            raise invalid(f"`numbers` must be an array of 1 to {NUMBERS_MAX} phone numbers.", "numbers")
        if len(wanted) > NUMBERS_MAX:
            detail = f"`numbers` must be at most {NUMBERS_MAX} phone numbers; this list has {len(wanted)}."
            raise Refusal("batch_too_large", 413, detail, "numbers")
        return [e164_in(f"numbers[{place}]", number) for place, number in enumerate(wanted)]


_Answer = Callable[[web.Request, int, OptOutSource], Awaitable[Response]]
