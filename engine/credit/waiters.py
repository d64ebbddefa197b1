"""The clients of one holder that wait for units, and what they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable
from itertools import count
from typing import NamedTuple, TypeVar

from engine.credit.holder import Token
from engine.errors import Unavailable

_Outcome = TypeVar("_Outcome")


class _Client(NamedTuple):
    shard: int
    organisation_id: int
    since_s: float
    answer: asyncio.Future[bool]


class Waiters:
    """By the token that names each of them to the `Holder`."""

    def __init__(self) -> None:
        self._tokens = count(1)
        # In the order in which they came.
        self._clients: dict[Token, _Client] = {}
        # Set when one comes.
        self.came = asyncio.Event()

    def __bool__(self) -> bool:
        """Whether anybody waits."""
        return bool(self._clients)

    def come(self, shard: int, organisation_id: int) -> tuple[Token, asyncio.Future[bool]]:
        """A client begins to wait; its token, and what it waits for: True when it is to reserve again."""
        loop = asyncio.get_running_loop()
        token = next(self._tokens)
        self.came.set()
        client = self._clients[token] = _Client(shard, organisation_id, loop.time(), loop.create_future())
        return token, client.answer

    def go(self, token: Token) -> bool:
        """A client waits no more; whether it did until now."""
        return self._clients.pop(token, None) is not None

    def waited_s(self) -> float:
        """How long the one has waited that came first, seconds; 0 when there is none."""
        for client in self._clients.values():
            return asyncio.get_running_loop().time() - client.since_s
        return 0.0

    def tell(self, tokens: Iterable[Token], outcome: bool | Unavailable) -> None:
        """Give these clients their outcome; those that have gone are passed over."""
        for token in tokens:
            if token in self._clients:
                settle(self._clients[token].answer, outcome)

    def refuse(
        self, error: Unavailable, shards: Container[int], organisations: Container[int] = frozenset()
    ) -> None:
        """Refuse all clients of these shards and of these organisations."""
        refused = [
            token
            for token, client in self._clients.items()
            if client.shard in shards or client.organisation_id in organisations
        ]
        self.tell(refused, error)


def settle(future: asyncio.Future[_Outcome] | None, outcome: _Outcome | Unavailable) -> None:
    """Give a client its outcome, unless it has gone."""
    if future is None or future.done():
        return
    if isinstance(outcome, Unavailable):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
