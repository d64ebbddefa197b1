"""Rule: which provider a message is sent through: the route that matches, then one of its providers.

The route with the longest prefix of the destination counts. Of the routes with that prefix, one
that names the message's sender goes first, then one that names its queue. When none of them matches,
because they name other senders or queues, the next shorter prefix is looked at. When there are
no routes at all, every provider may carry everything, in the order of the configuration.

A route may name a provider that this process does not know, because the process that accepted the
route was started with a newer configuration. Such a name is passed over. When the route
names no other provider, none can be chosen, and the message waits; it is not lost.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from engine.prefix_table import PrefixTable
from engine.records import Message, Queue
from engine.routing.records import Route, RoutingPlan

_ROUTES_MAX = 10_000
# Kinds of messages whose candidates are remembered.
_KNOWN_MAX = 10_000
_PROVIDERS_MAX = 32
_WEIGHT_MAX = 1_000_000
# "+" and the 15 digits of the longest number; names are shorter (see `engine.intake.phone_numbers.sender`).
_SENDER_MAX = 16
# E.164 numbers have no more digits.
_PREFIX = re.compile(r"(\+[0-9]{1,15})?")


class Candidates(NamedTuple):
    """The providers that may carry a message, by the route that matches it."""

    # Those that this process knows, in the order of the route; paused ones are among them.
    providers: tuple[str, ...] = ()
    # Those of them that are not paused, which `choose` chooses from, and the weight of each. Without
    # weights they are in order of preference.
    open: tuple[str, ...] = ()
    weights: tuple[int, ...] = ()
    # Whether another provider sends the message again when a receipt says that it was not delivered.
    reroute: bool = False
    # False: no route matches. The message can never be sent, and fails with `no_route`.
    routed: bool = True


_NOWHERE = Candidates(routed=False)


class _Group:
    """The routes of one prefix.

    `named`: those that name a sender or a queue, by (sender, queue). `plain`: the one that names
    neither. `shorter`: the group of the next shorter prefix, which counts when none of these matches.
    """

    __slots__ = ("named", "plain", "shorter")

    def __init__(self, routes: dict[tuple[str, str], Candidates]) -> None:
        self.plain = routes.pop(("", ""), None)
        self.named = routes
        self.shorter: _Group | None = None


class Router:
    """Finds the providers of messages by one plan. Building it looks at every route; a look-up does not."""

    __slots__ = ("_by_sender", "_groups", "_known", "_length", "_paused", "_unrouted", "reroutes")

    def __init__(self, plan: RoutingPlan, names: Sequence[str]) -> None:
        """`names` are the providers this process knows, in the order of its configuration."""
        known, paused = set(names), frozenset(plan.paused)
        self._paused = paused
        grouped: dict[str, dict[tuple[str, str], Candidates]] = {}
        for route in plan.routes:
            named = grouped.setdefault(route.prefix, {})
            named[route.sender, route.queue] = _candidates(route, known, paused)
        groups: dict[str, _Group | None] = {prefix: _Group(named) for prefix, named in grouped.items()}
        self._groups = PrefixTable(groups)
        for prefix, group in groups.items():
            assert group is not None
            group.shorter = self._groups.shorter(prefix, None)
        everyone = Route(providers=tuple(names))
        self._unrouted = _NOWHERE if plan.routes else _candidates(everyone, known, paused)
        # Whether any route lets messages be sent again when a receipt says that they did not arrive.
        self.reroutes = any(route.reroute for route in plan.routes)
        # What was found for messages, by all that the plan looks at: the queue, so many first characters of
        # the destination, and the sender if any route names one.
        self._known: dict[tuple[Queue, str, str], Candidates] = {}
        self._length = self._groups.length_max
        self._by_sender = any(route.sender for route in plan.routes)

    def candidates(self, message: Message, queue: Queue) -> Candidates:
        """The providers that may carry the message. Costs one look-up for a message like an earlier one, else
        at most one for each length of prefix, and a few for the prefix that matches."""
        like = (queue, message.to[: self._length], message.sender if self._by_sender else "")
        found = self._known.get(like)
        if found is None:
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            found = self._known[like] = self._look_up(message, queue)
        return found

    @property
    def alike(self) -> bool:
        """Whether all messages of a queue have the same candidates."""
        return not self._length and not self._by_sender

    def _look_up(self, message: Message, queue: Queue) -> Candidates:
        group = self._groups.longest(message.to, None)
        while group is not None:
            if named := group.named:
                sender = message.sender
                found = named.get((sender, queue)) or named.get((sender, "")) or named.get(("", queue))
                if found is not None:
                    return found
            if group.plain is not None:
                return group.plain
            group = group.shorter
        return self._unrouted

    def paused(self, name: str) -> bool:
        """Whether nothing is sent through this provider for now."""
        return name in self._paused


def choose(
    candidates: Candidates, tried: tuple[str, ...], usable: Callable[[str], bool], rng: Random
) -> str | None:
    """The provider to send through now; None: there is none.

    It is one that is not paused, not in `tried`, and `usable` (its circuit lets a message through).
    Without weights the first of those is taken; with weights one is drawn by its share of their
    weights. A provider with the weight 0 is taken only when none with a weight is left. `usable`
    must not change anything, because it is asked about providers that are not chosen then.

    None means one of two things. Either every provider that could carry the message has been
    tried, and the round is over; or those that have not been tried are paused or broken just now. The
    caller does the same in both cases: it pauses and forgets `tried`, so that the next
    round may begin with any provider.
    """
    if not candidates.weights:
        for name in candidates.open:
            if name not in tried and usable(name):
                return name
        return None
    first = drawn(candidates.open, candidates.weights, rng)
    if first is not None and first not in tried and usable(first):
        return first
    # Draw again among those that can carry it: their shares stay in proportion to each other.
    able = [
        (name, weight)
        for name, weight in zip(candidates.open, candidates.weights, strict=True)
        if name not in tried and usable(name)
    ]
    if not able:
        return None
    names, weights = zip(*able, strict=True)
    return drawn(names, weights, rng) or able[0][0]


def drawn(names: Sequence[str], weights: Sequence[int], rng: Random) -> str | None:
    """One of the names, drawn by weight; None when all weights are 0."""
    at = rng.random() * sum(weights)
    for name, weight in zip(names, weights, strict=True):
        at -= weight
        if at < 0:
            return name
    return None


def first_wrong(routes: Sequence[Route], provider_names: Sequence[str]) -> tuple[str, str] | None:
    """What is wrong with the routes, as (field, what is allowed); None when nothing is.

    Fields read `routes.N.field`, N from 0.
    """
    if len(routes) > _ROUTES_MAX:
        return "routes", f"at most {_ROUTES_MAX} routes"
    seen: set[tuple[str, str, str]] = set()
    for number, route in enumerate(routes):
        for field, holds, allowed in _rules(route, provider_names):
            if not holds:
                return f"routes.{number}.{field}", allowed
        key = (route.prefix, route.sender, route.queue)
        if key in seen:
            return f"routes.{number}", "different from every other in prefix, sender or queue"
        seen.add(key)
    return None


def _rules(route: Route, provider_names: Sequence[str]) -> list[tuple[str, bool, str]]:
    providers, weights = route.providers, route.weights
    known = f"names of configured providers ({', '.join(provider_names) or 'there are none'})"
    once = all(count == 1 for count in Counter(providers).values())
    spaced = route.sender == route.sender.strip() and route.sender.isprintable()
    shares = (
        len(weights) == len(providers) and all(0 <= w <= _WEIGHT_MAX for w in weights) and sum(weights) > 0
    )
    return [
        ("prefix", _PREFIX.fullmatch(route.prefix) is not None, 'empty, or "+" and 1 to 15 digits'),
        (
            "sender",
            len(route.sender) <= _SENDER_MAX and spaced,
            f"empty, or at most {_SENDER_MAX} characters",
        ),
        ("providers", 1 <= len(providers) <= _PROVIDERS_MAX, f"1 to {_PROVIDERS_MAX} names"),
        ("providers", all(name in provider_names for name in providers), known),
        ("providers", once, "different from one another"),
        (
            "weights",
            not weights or shares,
            f"left out, or one whole number from 0 to {_WEIGHT_MAX} for each provider, not all 0",
        ),
    ]


def _candidates(route: Route, known: set[str], paused: frozenset[str]) -> Candidates:
    here = [n for n, name in enumerate(route.providers) if name in known]
    left = [n for n in here if route.providers[n] not in paused]
    return Candidates(
        providers=tuple(route.providers[n] for n in here),
        open=tuple(route.providers[n] for n in left),
        weights=tuple(route.weights[n] for n in left) if route.weights else (),
        reroute=route.reroute,
    )
