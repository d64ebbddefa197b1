"""The operator's calls on the price table."""

from __future__ import annotations

import msgspec
from aiohttp import web

from engine.api.decoding import Shape, read_body
from engine.api.description import Answer, described
from engine.api.ports import AdminServices
from engine.api.response import Response, answer_of
from engine.records import PriceSheet


class _NewPrices(msgspec.Struct, forbid_unknown_fields=True):
    prices: dict[str, int]
    version: int | None = None


_PRICES = Shape(
    _NewPrices,
    "a price table",
    {
        "prices": 'an object of whole numbers of units by prefix, such as {"": 1, "+98": 2}',
        "version": "the version that the change is based on, a whole number",
    },
)


class PriceTables:
    """The actions on /v1/admin/prices."""

    def __init__(self, services: AdminServices) -> None:
        self._prices = services.prices
        self._body_bytes_max = services.body_bytes_max

    @described("get_prices", "Show the price table.", answers={200: PriceSheet})
    async def show(self, request: web.Request) -> Response:
        """`GET /v1/admin/prices`: 200 with a `records.PriceSheet`. Raises Refusal 401, Unavailable."""
        return answer_of(200, await self._prices.read())

    @described(
        "replace_prices",
        "Replace the price table in one step.",
        body=_PRICES,
        limits={
            "prices": {
                "maxProperties": 10_000,
                "additionalProperties": {"type": "integer", "minimum": 1, "maximum": 1_000_000},
            }
        },
        examples={"two prices": {"prices": {"": 1, "+98": 2}}},
        answers={200: Answer(PriceSheet, example={"version": 2, "prices": {"": 1, "+98": 2}})},
        codes=("version_conflict",),
    )
    async def replace(self, request: web.Request) -> Response:
        """`PUT /v1/admin/prices`: 200 with the `records.PriceSheet` that stands now.

        Safe to repeat: the same table again changes nothing, whatever `version` says. Raises
        Refusal 400, 401, 409, 413, 422, Unavailable.
        """
        wanted = _PRICES.decode(await read_body(request, self._body_bytes_max))
        return answer_of(200, await self._prices.replace(wanted.prices, wanted.version))
