"""An organisation's view of its credit."""

from __future__ import annotations

from aiohttp import hdrs, web

from engine.api.auth import Keys
from engine.api.paging import transactions_page
from engine.api.ports import Services
from engine.api.response import Response, answer_of


class Accounts:
    """The actions of an organisation on its own credit: /v1/balance and below. Each raises Refusal 401."""

    def __init__(self, services: Services, keys: Keys) -> None:
        self._directory = services.directory
        self._transactions = services.transactions
        self._keys = keys

    async def balance(self, request: web.Request) -> Response:
        """`GET /v1/balance`: 200 with a `organisations.Balance`. Raises Refusal 401, Unavailable."""
        organisation_id = await self._keys.organisation(request.headers.get(hdrs.AUTHORIZATION))
        return answer_of(200, await self._directory.balance(organisation_id))

    async def transactions(self, request: web.Request) -> Response:
        """`GET /v1/balance/transactions`: 200 with a `TransactionsPage`. Raises Refusal 401, 422,
        Unavailable."""
        organisation_id = await self._keys.organisation(request.headers.get(hdrs.AUTHORIZATION))
        return answer_of(200, await transactions_page(request, self._transactions, organisation_id))
