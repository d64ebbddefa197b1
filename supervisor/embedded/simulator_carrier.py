"""The simulated carrier: takes sends, decides their fate, keeps count, changes behaviour.

No sockets and no timers here. What a send is answered with, and when, is returned to
the server; `now_s` is any steady clock.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator
from http import HTTPStatus
from random import Random
from typing import Annotated, Any
from urllib.parse import parse_qsl

import msgspec

from engine.errors import Refusal
from supervisor.embedded import simulator_wire as wire
from supervisor.embedded.simulator_behaviour import Behaviour, Fate, Sampler, changed
from supervisor.embedded.simulator_counts import Counts

# Ids written at a time when they are listed.
PAGE = 5_000


class Send(msgspec.Struct, frozen=True, gc=False):
    """One `POST /send`."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    to: str
    text: str
    sender: str = msgspec.field(name="from", default="")
    segments: Annotated[int, msgspec.Meta(ge=1)] = 1


_decode = msgspec.json.Decoder(Send).decode

# An accepted answer is all constant but for an id of 16 digits.
_ACCEPTED = wire.answer(HTTPStatus.OK, wire.JSON, b'{"status":"accepted","id":"%b"}' % (b"0" * 16)).replace(
    b"0" * 16 + b'"}', b'%016x"}'
)


def _error(status: HTTPStatus, code: str, *, headers: bytes = b"") -> bytes:
    return wire.json_answer({"status": "error", "code": code}, status, headers=headers)


_ANSWERS: dict[Fate, bytes | None] = {
    "temporary": _error(HTTPStatus.SERVICE_UNAVAILABLE, "temporary"),
    "permanent": _error(HTTPStatus.UNPROCESSABLE_ENTITY, "rejected"),
    "timeout": None,
    "reset": wire.RESET,
    "outage": _error(HTTPStatus.SERVICE_UNAVAILABLE, "outage"),
    "refuse": wire.CLOSE,
    "hang": None,
}

Answer = bytes | wire.Listing


class Carrier:
    """State that all connections share."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.counts = Counts()
        # Sends by fate; those accepted by the plain path are `received` minus the rest.
        self.fates: dict[str, int] = {}
        # First half of the ids given out: another one with every start.
        self._next_id = secrets.randbits(31) << 32
        self._random = Random()
        self._set(behaviour, reseed=True)

    def _set(self, behaviour: Behaviour, reseed: bool) -> None:
        if reseed:
            self._random.seed(behaviour.seed)
        self.behaviour = behaviour
        self._sampler = Sampler(behaviour, self._random)

    def take(self, body: bytes | bytearray, now_s: float) -> tuple[bytes | None, float]:
        """The answer to one send, None for none ever, and after how many seconds it goes out."""
        try:
            send = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as e:
            return _not_a_send(e), 0.0
        sampler = self._sampler
        if sampler.plain:
            self.counts.add(send.id)
            self._next_id += 1
            return _ACCEPTED % self._next_id, 0.0
        fate, delay_s = sampler.fate(now_s)
        self.fates[fate] = self.fates.get(fate, 0) + 1
        lost = fate in ("timeout", "reset")
        if fate == "accepted" or (lost and self.behaviour.lost_answers_count):
            self.counts.add(send.id)
        if fate == "accepted":
            self._next_id += 1
            return _ACCEPTED % self._next_id, delay_s
        if fate == "throttled":
            retry_after = b"Retry-After: %d\r\n" % max(1, math.ceil(delay_s))
            return _error(HTTPStatus.TOO_MANY_REQUESTS, "throttled", headers=retry_after), 0.0
        return _ANSWERS[fate], delay_s

    def ask(self, method: bytes, target: bytes, body: bytes) -> Answer:
        """The answer to anything but a send."""
        path, _, query = target.partition(b"?")
        allowed = _ROUTES.get(path)
        if allowed is None:
            return wire.problem(HTTPStatus.NOT_FOUND, "There is nothing at this path.")
        if method not in allowed:
            allow = b"Allow: %b\r\n" % b", ".join(allowed)
            detail = f"Allowed here: {b', '.join(allowed).decode()}."
            return wire.problem(HTTPStatus.METHOD_NOT_ALLOWED, detail, headers=allow)
        try:
            if path == b"/stats":
                return wire.json_answer(self._stats(_arguments(query, {"detail"}).get("detail") == "1"))
            if path == b"/received":
                return self._received(_arguments(query, {"after", "limit", "format", "duplicates"}))
            if path == b"/reset":
                self.counts.reset()
                self.fates.clear()
                return wire.json_answer(self._stats(detail=False))
            if method == b"PUT":
                behaviour = changed(self.behaviour, body)
                # A seed that is named starts its sequence anew, also when it is the same.
                self._set(behaviour, reseed="seed" in msgspec.json.decode(body))
            return wire.json_answer(self.behaviour)
        except Refusal as e:
            return wire.problem(e.status, e.detail, e.field)

    def _stats(self, detail: bool) -> dict[str, Any]:
        received, distinct = self.counts.received, self.counts.distinct
        stats: dict[str, Any] = {
            "received": received, "distinct": distinct, "duplicates": received - distinct,
        }  # fmt: skip
        if detail:
            stats["fates"] = {fate: self.fates.get(fate, 0) for fate in _ANSWERS}
            stats["fates"]["throttled"] = self.fates.get("throttled", 0)
        return stats

    def _received(self, arguments: dict[str, str]) -> Answer:
        if arguments.get("duplicates") == "1":
            return wire.json_answer({"duplicates": self.counts.repeated()})
        total = self.counts.distinct
        after = min(_natural(arguments, "after", 0), total)
        end = min(after + _natural(arguments, "limit", total), total)
        form = arguments.get("format", "json")
        if form == "json":
            return wire.Listing(wire.JSON, self._as_json(after, end))
        if form == "lines":
            return wire.Listing(wire.TEXT, self._as_lines(after, end))
        raise Refusal("wrong_argument", 400, "format must be json or lines.", "format")

    def _as_lines(self, after: int, end: int) -> Iterator[bytes]:
        for start in range(after, end, PAGE):
            ids = self.counts.ids(start, min(PAGE, end - start))
            yield "".join([f"{i}\n" for i in ids]).encode()

    def _as_json(self, after: int, end: int) -> Iterator[bytes]:
        yield b'{"ids":['
        for start in range(after, end, PAGE):
            ids = msgspec.json.encode(self.counts.ids(start, min(PAGE, end - start)))[1:-1]
            yield b"," + ids if start > after and ids else ids
        yield b"]}"


_ROUTES: dict[bytes, tuple[bytes, ...]] = {
    b"/send": (b"POST",),
    b"/stats": (b"GET",),
    b"/received": (b"GET",),
    b"/reset": (b"POST",),
    b"/behaviour": (b"GET", b"PUT"),
}


def _arguments(query: bytes, known: set[str]) -> dict[str, str]:
    arguments = dict(parse_qsl(query.decode("ascii", "replace"), keep_blank_values=True))
    for name in arguments:
        if name not in known:
            raise Refusal("wrong_argument", 400, f"There is no argument {name} here.", name)
    return arguments


def _natural(arguments: dict[str, str], name: str, default: int) -> int:
    text = arguments.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise Refusal("wrong_argument", 400, f"{name} must be a whole number from 0.", name)
    return int(text)


def _not_a_send(error: Exception) -> bytes:
    what, _, where = str(error).partition(" - at `$.")
    field = where.rstrip("`") or None
    return wire.problem(HTTPStatus.BAD_REQUEST, f"The body is not a send: {what}.", field)
