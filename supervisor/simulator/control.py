"""The simulator's answers about itself, over HTTP: its counts, the ids it took, its behaviour."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, get_args
from urllib.parse import parse_qsl

import msgspec

from engine.errors import Refusal
from supervisor.simulator import wire
from supervisor.simulator.counts import Counts
from supervisor.simulator.draws import Fate
from supervisor.simulator.provider import SimulatedProvider

# Ids in one piece of a listing.
PAGE = 5_000

Answer = bytes | wire.Listing


class Control:
    """Answers every request but a send.

    `parts` are functions that give further details of `/stats?detail=1`, by their name there. `write` brings
    the message in a body to the engine.
    """

    def __init__(
        self,
        provider: SimulatedProvider,
        parts: Mapping[str, Callable[[], Any]] | None = None,
        write: Callable[[bytes], Any] = lambda body: {},
    ) -> None:
        self._provider = provider
        self._parts = parts or {}
        self._write = write

    def ask(self, method: bytes, target: bytes, body: bytes) -> Answer:
        """The answer to one request; `target` is its path and query. A mistake is answered by a problem."""
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
                return self._received(
                    _arguments(query, {"after", "limit", "format", "duplicates", "further"})
                )
            if path == b"/inbound":
                return wire.json_answer(self._write(body))
            if path == b"/reset":
                self._provider.reset()
                return wire.json_answer(self._stats(detail=False))
            if method == b"PUT":
                self._provider.change(body)
            return wire.json_answer(self._provider.behaviour)
        except Refusal as e:
            return wire.problem(e.status, e.detail, e.field)

    def _stats(self, detail: bool) -> dict[str, Any]:
        stats = _sums(self._provider.counts)
        if detail:
            # `accepted` is not shown: the plain path does not count it. It is `received` less the others.
            names = [fate for fate in get_args(Fate) if fate != "accepted"]
            stats["fates"] = {fate: self._provider.fates.get(fate, 0) for fate in names}
            flow, now_s = self._provider.flow, time.monotonic()
            stats["segments"] = {
                "received": flow.segments,
                "second_max": flow.second_max,
                "now_s": now_s,
                "per_second": flow.per_second(now_s),
                "further": _sums(self._provider.further),
            }
            stats |= {name: part() for name, part in self._parts.items()}
        return stats

    def _received(self, arguments: dict[str, str]) -> Answer:
        counts = self._provider.further if arguments.get("further") == "1" else self._provider.counts
        if arguments.get("duplicates") == "1":
            return wire.json_answer({"duplicates": counts.repeated()})
        total = counts.distinct
        after = min(_natural(arguments, "after", 0), total)
        end = min(after + _natural(arguments, "limit", total), total)
        form = arguments.get("format", "json")
        if form == "json":
            return wire.Listing(wire.JSON, _as_json(counts, after, end))
        if form == "lines":
            return wire.Listing(wire.TEXT, _as_lines(counts, after, end))
        raise Refusal("wrong_argument", 400, "format must be json or lines.", "format")


def _sums(counts: Counts) -> dict[str, Any]:
    received, distinct = counts.received, counts.distinct
    return {"received": received, "distinct": distinct, "duplicates": received - distinct}


def _as_lines(counts: Counts, after: int, end: int) -> Iterator[bytes]:
    for start in range(after, end, PAGE):
        ids = counts.ids(start, min(PAGE, end - start))
        yield "".join([f"{i}\n" for i in ids]).encode()


def _as_json(counts: Counts, after: int, end: int) -> Iterator[bytes]:
    yield b'{"ids":['
    for start in range(after, end, PAGE):
        ids = msgspec.json.encode(counts.ids(start, min(PAGE, end - start)))[1:-1]
        yield b"," + ids if start > after and ids else ids
    yield b"]}"


_ROUTES: dict[bytes, tuple[bytes, ...]] = {
    b"/send": (b"POST",),
    b"/stats": (b"GET",),
    b"/received": (b"GET",),
    b"/reset": (b"POST",),
    b"/inbound": (b"POST",),
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
