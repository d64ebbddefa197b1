"""Rule: which origins take deliveries again while older ones wait for their next attempt.

An origin fails from an attempt that failed until it takes a delivery. What waits there says no more than that
one failed once, and may wait for hours. Only changes are noted, so a delivery costs nothing in PostgreSQL.

    killed      the next notifier notes the first failure at each origin, and the first success at each where
                deliveries wait: what was noted before counts until then
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple


class Origin(NamedTuple):
    """An origin of an organisation."""

    shard: int
    organisation_id: int
    # Scheme, host and port.
    origin: str


class Recoveries:
    """What one notifier knows of the origins that it sends to."""

    def __init__(self, note: Callable[[Origin, bool], None]) -> None:
        """`note` is called when an origin comes to take deliveries, and when it comes to fail."""
        self._note = note
        # By origin: whether it took the last delivery, and how many looks there were before that was noted.
        self._known: dict[Origin, tuple[bool, int]] = {}
        self._waiting: frozenset[Origin] = frozenset()
        self._looks = 0

    def waits_at(self, origins: Iterable[Origin]) -> None:
        """Deliveries wait at these and at no others, by a look that has just ended."""
        self._waiting = frozenset(origins)
        self._looks += 1
        # What failed while the look was under way is found by the next one.
        over = [o for o, (_, at) in self._known.items() if at < self._looks - 1 and o not in self._waiting]
        for origin in over:
            del self._known[origin]

    def took(self, origin: Origin) -> None:
        """It took a delivery."""
        known = self._known.get(origin)
        if known is None and origin not in self._waiting:
            return
        if known is None or not known[0]:
            self._change(origin, takes=True)

    def failed(self, origin: Origin) -> None:
        """An attempt failed there, and is to be made again."""
        known = self._known.get(origin)
        if known is None or known[0]:
            self._change(origin, takes=False)

    def _change(self, origin: Origin, *, takes: bool) -> None:
        self._known[origin] = takes, self._looks
        self._note(origin, takes)
