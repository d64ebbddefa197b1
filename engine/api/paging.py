"""What the query of a URL asks for: which part of a list too long for one answer, and how."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import TypeVar

import msgspec
from aiohttp import web

from engine.api.decoding import check_time, invalid
from engine.api.ports import Transactions
from engine.organisations import Transaction

T = TypeVar("T")

_LIMIT_DEFAULT = 100
_LIMIT_MAX = 1_000
# At most 18 digits: every such number fits PostgreSQL's bigint.
NUMBER = re.compile(r"[0-9]{1,18}")
NUMBER_MAX = 10**18 - 1


def limit_asked(request: web.Request) -> int:
    """How many entries the page may have: `?limit=`, 1 to 1,000, 100 if absent. Raises Refusal 422."""
    return asked(request, "limit", _LIMIT_DEFAULT, 1, _LIMIT_MAX)


def asked(request: web.Request, name: str, default: int, least: int = 0, most: int = NUMBER_MAX) -> int:
    """The number `name` of the query, from `least` to `most`; `default` if absent or empty.

    Raises Refusal 422."""
    value = request.query.get(name)
    if not value:
        return default
    if not NUMBER.fullmatch(value) or not least <= int(value) <= most:
        raise invalid(f"`{name}` must be a whole number from {least} to {most}.", name)
    return int(value)


def time_asked(request: web.Request, name: str) -> datetime | None:
    """The time `name` of the query, None if absent or empty. Raises Refusal 422."""
    text = request.query.get(name)
    if not text:
        return None
    try:
        time = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        # Refused below, as one without a time zone.
        time = datetime.min
    check_time(name, time)
    return time


def choice_asked(request: web.Request, name: str, choices: Mapping[str, T]) -> T:
    """What the query's word stands for; the first choice when there is none, or an empty one.

    Raises Refusal 422."""
    value = request.query.get(name)
    if not value:
        return next(iter(choices.values()))
    if value not in choices:
        raise invalid(f"`{name}` must be {' or '.join(filter(None, choices))}.", name)
    return choices[value]


class TransactionsPage(msgspec.Struct):
    """One page of an organisation's transactions."""

    # Newest first.
    transactions: list[Transaction]
    # The `cursor` of the next page; null on the last.
    next: int | None


async def transactions_page(
    request: web.Request, transactions: Transactions, organisation_id: int
) -> TransactionsPage:
    """The page that `?limit=` and `?cursor=` ask for. Raises Refusal 404, 422, Unavailable."""
    limit = limit_asked(request)
    before = asked(request, "cursor", NUMBER_MAX, 1)
    # One more than asked for tells whether there is another page.
    found = await transactions(organisation_id, before, limit + 1)
    page = found[:limit]
    return TransactionsPage(page, page[-1].id if len(found) > limit else None)
