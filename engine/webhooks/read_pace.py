"""Rule: how much a notifier reads at once, and how long it waits before it reads again.

Every read costs the same beside its rows, so they are few and large where nobody is told of what is read.
Under a load there is always another row, and an event is told the later the longer the wait was.

    somebody was told, or much was read    at once
    nobody was told                        a moment later
    no organisation has an endpoint        the moment doubles with each such read up to `APART_MAX_S`. Only
                                           messages with a callback URL of their own are looked for then; the
                                           first of them is told so much later at most
"""

from __future__ import annotations

# Seconds between two reads of which nobody is told.
APART_S, APART_MAX_S = 0.02, 0.25
# About so many rows are read at once, in at most so many entries of a stream; `UNTOLD_ROWS` where no
# organisation has an endpoint and nobody was told of the last ones, because then they are not even unpacked.
ROWS, UNTOLD_ROWS, ENTRIES_MAX = 1_000, 5_000, 100


class ReadPace:
    """The pace of one notifier."""

    def __init__(self) -> None:
        # How many entries of each stream to ask for.
        self.entries = 1
        self._apart_s = APART_S

    def after(self, rows: int, *, has_events: bool, has_endpoints: bool) -> float:
        """How long to wait after a read that brought so many rows, seconds; 0: not at all.

        `has_events`: somebody is told of one of them. `has_endpoints`: an organisation has an endpoint.
        """
        if has_events or has_endpoints or not rows:
            # With no row it has waited in Redis, and the next one is the first after a rest.
            self._apart_s = APART_S
        most = ROWS if self._apart_s == APART_S else UNTOLD_ROWS
        if rows > most:
            self.entries = max(1, self.entries * most // rows)
        elif 2 * rows < most:
            self.entries = min(ENTRIES_MAX, 2 * self.entries)
        if has_events or 2 * rows >= most:
            return 0.0
        apart_s = self._apart_s
        if rows and not has_endpoints:
            self._apart_s = min(2 * apart_s, APART_MAX_S)
        return apart_s
