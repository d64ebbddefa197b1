"""Rule: how often a source may try to log in. A log-in that succeeds is not counted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address

from engine.errors import TooMany
from engine.networks import address_of

# So many attempts at once, and then one in so many seconds.
BURST = 10
EACH_S = 6.0
_SOURCES_MAX = 10_000


class Attempts:
    """Counts attempts by source: an IPv4 address, or the /64 network of an IPv6 address."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        # By source, the least recent first: from when on it has all its attempts again.
        self._whole_at_s: OrderedDict[str, float] = OrderedDict()

    def take(self, address: str) -> None:
        """Count one more from this address. Raises TooMany."""
        source, now = _source(address), self._clock_s()
        whole_at_s = max(now, self._whole_at_s.get(source, now)) + EACH_S
        wait_s = whole_at_s - now - BURST * EACH_S
        if wait_s > 0:
            detail = "Too many attempts to log in from this address; try again after Retry-After seconds."
            raise TooMany(
                "too_many_logins", detail, "logins",
                quota=BURST, window_s=int(BURST * EACH_S), remaining=0, retry_after_s=wait_s,
            )  # fmt: skip
        self._whole_at_s[source] = whole_at_s
        self._whole_at_s.move_to_end(source)
        if len(self._whole_at_s) > _SOURCES_MAX:
            self._whole_at_s.popitem(last=False)

    def give_back(self, address: str) -> None:
        """The last attempt from this address was a good one."""
        source = _source(address)
        if source in self._whole_at_s:
            self._whole_at_s[source] -= EACH_S


def _source(address: str) -> str:
    found = address_of(address)
    return str(int(found) >> 64) if isinstance(found, IPv6Address) else address
