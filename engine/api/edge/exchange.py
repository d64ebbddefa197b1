"""One request that submits messages, from its body to its answer."""

from __future__ import annotations

import asyncio
from typing import Protocol

from engine.api.client_address import TrustedProxies
from engine.api.decoding import without_mark
from engine.api.edge.heads import Head, Origin
from engine.api.edge.parts import Parts
from engine.api.guard import checked_key, fingerprint_of, late, problem
from engine.api.key_cache import Presented, unauthorised
from engine.api.messages import accepted
from engine.api.ports import Submitted, UnderWay
from engine.api.response import Response, accepted_octets


class Client(Protocol):
    """Who is answered."""

    @property
    def is_gone(self) -> bool:
        """Whether nobody would read an answer."""

    # The `peername` of its connection; None: nobody knows it.
    peer: object

    def answer(self, octets: bytes, *, closes: bool, with_key: bool) -> None:
        """Write the answer, and close the connection when it `closes`. The request is over with it.

        `with_key`: it came with a good key."""


class Exchange:
    """A request under way. It ends with the one call of `Client.answer`, whatever happens."""

    __slots__ = ("_client", "_head", "_is_let_in", "_parts", "_request_id", "_under_way", "_waiting")

    def __init__(self, parts: Parts, client: Client, head: Head) -> None:
        self._parts = parts
        self._client = client
        self._head = head
        self._request_id = parts.ids.of(head.request_id)
        self._under_way: UnderWay | None = None
        # Whether its key was found good.
        self._is_let_in = False
        # A look-up of its key, or of what to say about its delay.
        self._waiting: asyncio.Task[None] | None = None

    def begin(self, body: bytes, waited_s: float) -> None:
        """Submit the messages in `body`, for which it has waited `waited_s` seconds."""
        parts, presented = self._parts, self._head.presented
        try:
            if presented is None:
                raise unauthorised()
            organisation_id = parts.keys.sender_at_once(presented, self)
            if organisation_id is None:
                self._waiting = asyncio.create_task(
                    self._look_up(presented, body), name="sender of a request"
                )
            else:
                if not self._head.is_remembered:
                    parts.heads.remember(self._head)
                self._submit(organisation_id, body)
        except Exception as e:
            # Nothing above this could answer the caller.
            self._end(e)
        else:
            parts.deadlines.begin(self, waited_s)

    def address(self, proxies: TrustedProxies) -> str:
        """Where the request comes from: see `auth.Source`."""
        return Origin(self._head, self._client).address(proxies)

    def expire(self) -> None:
        """Its time is over: take back what was not sent to Redis, and say so."""
        self._drop()
        if self._client.is_gone:
            self._client.answer(b"", closes=True, with_key=self._is_let_in)
        else:
            self._waiting = asyncio.create_task(self._tell_delay(), name="answer to a late request")

    def give_up(self) -> None:
        """Take back what was not sent to Redis, and answer nobody."""
        self._parts.deadlines.stop(self)
        self._drop()
        self._client.answer(b"", closes=True, with_key=self._is_let_in)

    def _drop(self) -> None:
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.give_up()
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()

    async def _look_up(self, presented: Presented, body: bytes) -> None:
        try:
            organisation_id = await self._parts.keys.looked_up_sender(presented, self)
            self._waiting = None
            self._submit(organisation_id, body)
        except Exception as e:
            # The top of this task: whatever it is, the caller is answered.
            self._end(e)

    async def _tell_delay(self) -> None:
        parts = self._parts
        has_key = bool(self._head.idempotency_key)
        try:
            response = await late(parts.ready, self._request_id, "POST", parts.timeout_s, has_key=has_key)
        except Exception as e:
            # The same.
            self._end(e)
        else:
            self._respond(response)

    def _submit(self, organisation_id: int, body: bytes) -> None:
        head = self._head
        self._is_let_in = True
        body = without_mark(body)
        key, fingerprint = "", b""
        if head.idempotency_key is not None:
            key = checked_key(head.idempotency_key)
            fingerprint = fingerprint_of("POST", head.path, body)
        drafts, render = head.submission.read(body)
        self._under_way = self._parts.ingest.begin(
            organisation_id,
            drafts,
            self._end,
            render=render,
            idempotency_key=key,
            fingerprint=fingerprint,
        )

    def _end(self, outcome: Submitted | Exception) -> None:
        """Answer with what became of the request."""
        parts, head = self._parts, self._head
        parts.deadlines.stop(self)
        self._under_way = self._waiting = None
        if isinstance(outcome, Exception):
            self._respond(problem(outcome, self._request_id, "POST", head.path))
        elif outcome.replayed or head.closes or parts.closes():
            self._respond(accepted(outcome))
        else:
            parts.counts.add_accepted()
            self._client.answer(
                accepted_octets(outcome.answer, self._request_id), closes=False, with_key=True
            )

    def _respond(self, response: Response) -> None:
        self._waiting = None
        response.request_id = self._request_id
        self._parts.counts.add(response)
        closes = self._head.closes or self._parts.closes()
        if closes:
            response.force_close()
        self._client.answer(response.octets(), closes=closes, with_key=self._is_let_in)
