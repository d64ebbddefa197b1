"""An organisation's view of its credit."""

from __future__ import annotations

from aiohttp import hdrs, web

from engine.api.auth import Keys
from engine.api.description import Answer, described
from engine.api.paging import TransactionsPage, transactions_page
from engine.api.parameters import CURSOR, LIMIT
from engine.api.ports import CommonServices
from engine.api.response import Response, answer_of
from engine.organisations import Balance

_PAGE = {
    "transactions": [
        {
            "id": 5,
            "at": "2026-11-22T09:43:36.390841Z",
            "type": "capture",
            "units": 2,
            "reference": None,
            "reason": None,
        },
        {
            "id": 2,
            "at": "2026-11-22T09:43:35.898741Z",
            "type": "top-up",
            "units": 1000,
            "reference": "invoice-2041",
            "reason": None,
        },
    ],
    "next": None,
}


class Accounts:
    """The actions of an organisation on its own credit: /v1/balance and below. Each raises Refusal 401."""

    def __init__(self, services: CommonServices, keys: Keys) -> None:
        self._directory = services.directory
        self._transactions = services.transactions
        self._keys = keys

    @described(
        "get_balance",
        "Show what is paid in, held and available.",
        scope="read",
        more="Behind what was just accepted by less than a second.",
        answers={200: Answer(Balance, example={"posted": 998, "held": 1, "available": 997})},
    )
    async def balance(self, request: web.Request) -> Response:
        """`GET /v1/balance`: 200 with a `organisations.Balance`. Raises Refusal 401, Unavailable."""
        organisation_id = await self._keys.organisation(request.headers.get(hdrs.AUTHORIZATION), request)
        return answer_of(200, await self._directory.balance(organisation_id))

    @described(
        "list_transactions",
        "List what moved the balance, newest first.",
        scope="read",
        query=LIMIT | CURSOR,
        answers={200: Answer(TransactionsPage, example=_PAGE)},
    )
    async def transactions(self, request: web.Request) -> Response:
        """`GET /v1/balance/transactions`: 200 with a `TransactionsPage`. Raises Refusal 401, 422,
        Unavailable."""
        organisation_id = await self._keys.organisation(request.headers.get(hdrs.AUTHORIZATION), request)
        return answer_of(200, await transactions_page(request, self._transactions, organisation_id))
