"""The admin calls that erase a number from what is recorded of messages."""

from __future__ import annotations

import msgspec
from aiohttp import web

from engine.api.decoding import Shape, read_body
from engine.api.description import described
from engine.api.ports import AdminServices
from engine.api.response import Response, answer_of
from engine.changes import describe
from engine.intake.phone_numbers import e164_in


class _Number(msgspec.Struct, forbid_unknown_fields=True):
    number: str


class _UnderWay(msgspec.Struct):
    # Changes of tables that ClickHouse has not carried out yet; 0: every erasure so far is done.
    under_way: int


_NUMBER = Shape(_Number, "an erasure", {"number": "a phone number in E.164"})


class Erasures:
    """The actions on /v1/admin/erasures."""

    def __init__(self, services: AdminServices) -> None:
        self._erase = services.reports.erase
        self._under_way = services.reports.erasures_under_way
        self._body_bytes_max = services.body_bytes_max

    @described(
        "erase_number",
        "Begin to erase a phone number from everything that is recorded of messages.",
        more="Safe to repeat. It is done when `under_way` is 0.",
        body=_NUMBER,
        examples={"a number": {"number": "+4915112345678"}},
        answers={202: _UnderWay},
        codes=("invalid_number",),
    )
    async def begin(self, request: web.Request) -> Response:
        """`POST /erasures`: 202 with how many changes are under way. Raises Refusal 400, 413, 422,
        Unavailable."""
        wanted = _NUMBER.decode(await read_body(request, self._body_bytes_max))
        await self._erase(e164_in("number", wanted.number))
        # The record of it must not keep the number.
        describe(None, {"erased": "a number"})
        return answer_of(202, _UnderWay(await self._under_way()))

    @described("get_erasures", "Show whether erasures are under way.", answers={200: _UnderWay})
    async def show(self, _: web.Request) -> Response:
        """`GET /erasures`: 200 with how many changes are under way. Raises Unavailable."""
        return answer_of(200, _UnderWay(await self._under_way()))
