"""Service: the entries that one worker has in hand, and what becomes of them, written to Redis in batches.

An entry is in hand from `took` until it is settled or dropped. From its verdict on it is *unsettled*, and
takes no room of a send any more. Settlements gather, and `engine.delivery.settlement_writer` writes them.

    killed      what is in hand is pending under the worker's name, and others take it over
    frozen      an entry that was read too long ago is dropped when its turn comes, because another worker
                may have it
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random

from structlog.typing import FilteringBoundLogger

from engine.delivery._many import plain_entries
from engine.delivery.ports import QueueReader
from engine.delivery.sent import sent_entries
from engine.delivery.settlement import (
    RetryPauses,
    UnknownOutcomes,
    after_verdict,
    before_sending,
    in_older_words,
    put_back,
    put_off,
    put_off_in,
    unroutable,
)
from engine.delivery.settlement_writer import SettlementWriter
from engine.records import RECEIPTS_BY_ANY_ID, Entry, Settlement, Verdict

# How long a message waits for its end when that cannot be recorded yet (`in_older_words`), seconds.
_WAITS_S = 10.0


class Settler:
    """The entries of one worker, from being read to being settled."""

    def __init__(
        self,
        reader: QueueReader,
        *,
        pauses: RetryPauses,
        hand_s: float,
        now_us: Callable[[], int],
        clock_s: Callable[[], float],
        rng: Random,
        log: FilteringBoundLogger,
        unknown: UnknownOutcomes,
        readable: Callable[[str], bool] = lambda event: True,
    ) -> None:
        """`hand_s`: an entry that was read longer ago is not sent; with a provider's time-out it must be
        less than the time after which entries are taken over. `unknown`: what the queue does with sends
        of unknown outcome. `readable`: whether every living process can read an event, by its name.
        """
        self._reader = reader
        self._pauses = pauses
        self._hand_s = hand_s
        self.now_us = now_us
        self._clock_s = clock_s
        self._rng = rng
        self._log = log
        self._unknown = unknown
        # Entries that were taken and are not settled.
        self.in_hand = 0
        # Set whenever something in hand was settled or dropped.
        self.settled = asyncio.Event()
        # Set whenever there is more room: that, and whenever an entry has become unsettled.
        self.freed = asyncio.Event()
        self._readable = readable
        self._writer = SettlementWriter(reader, self._let_go, log)
        self.counts, self.times = self._writer.counts, self._writer.times
        self.read_comes = self._writer.read_comes

    @property
    def putting_off(self) -> tuple[int, int]:
        """Entries that were put off in a way, which is not written yet; and those that go to the front."""
        return self._writer.putting_off, self._writer.putting_in_front

    @property
    def unsettled(self) -> int:
        """Entries in hand of which it is known what becomes, and which are not settled yet."""
        return self._writer.unsettled

    def took(self, count: int) -> None:
        """Note that so many more entries are in hand."""
        self.in_hand += count

    def to_send(self, waiting: list[tuple[Entry, float]]) -> list[Entry]:
        """Those of `waiting` that are still to be sent, now that their turn has come. The others were dropped
        or settled. Each comes with the time at which it was read."""
        # Nearly always: what `may_be_sent` comes to for entries with nothing out of the ordinary.
        plain = plain_entries(waiting, self._clock_s() - self._hand_s, self.now_us())
        if plain is not None:
            return plain
        return [entry for entry, read_at_s in waiting if self.may_be_sent(entry, read_at_s)]

    def may_be_sent(self, entry: Entry, read_at_s: float) -> bool:
        """Whether `entry` is still to be sent, when its turn has come. False: it was dropped or settled."""
        if read_at_s < self._clock_s() - self._hand_s:
            self._reader.drop([entry])
            self._let_go(1)
            return False
        settlement = before_sending(entry, self.now_us(), self._unknown)
        if settlement is not None:
            self._settle(settlement)
        return settlement is None

    def may_be_given_up(self, entry: Entry) -> bool:
        """Whether `entry`, which is being sent, may be sent again before its outcome is known."""
        return self._unknown.left(entry) > 1

    def ended(
        self,
        entry: Entry,
        verdict: Verdict,
        *,
        others: bool,
        reroute: bool,
        receipts_by: int = RECEIPTS_BY_ANY_ID,
    ) -> None:
        """Settle `entry`, whose attempt ended with `verdict`; the rest is as in `after_verdict`."""
        self._settle(
            after_verdict(
                entry,
                verdict,
                self.now_us(),
                self._pauses,
                self._rng,
                others=others,
                reroute=reroute,
                unknown=self._unknown,
                receipts_by=receipts_by,
            )
        )

    def sent(
        self,
        entries: Sequence[Entry],
        ids: list[str],
        latency_us: list[int],
        provider: str,
        code: str,
        receipts_by: int = RECEIPTS_BY_ANY_ID,
    ) -> None:
        """Settle entries that `provider` accepted, and that are not sent again after a receipt. It comes to
        the same as `ended` for each: every version can read their event. The rest is as in `sent_entries`."""
        self._writer.add_sent(
            sent_entries(
                entries,
                ids,
                latency_us,
                provider=provider,
                code=code,
                now_us=self.now_us(),
                receipts_by=receipts_by,
            )
        )
        self.freed.set()

    def put_off(self, entry: Entry, pause_s: float, way: str = "", *, front: bool = False) -> None:
        """Put `entry` off for `pause_s`, because no provider can take it now; or, with a way
        (`engine.delivery.ways`), until there is room at the providers of that, before what waits there with
        `front`."""
        now_us = self.now_us()
        # An entry that must not be sent any more is settled now instead.
        # One that expires before its turn is due then, to be ended.
        due_at_us = min(now_us + int(pause_s * 1e6), entry.message.expires_at_us)
        off = put_off_in(entry, way, front=front) if way else put_off(entry, due_at_us)
        self._settle(before_sending(entry, now_us, self._unknown) or off)

    def put_back(self, entry: Entry) -> None:
        """Give back `entry`, which was only read: to the front of its organisation's backlog, for any worker.
        One that must not be sent any more is settled instead."""
        self._settle(before_sending(entry, self.now_us(), self._unknown) or put_back(entry))

    def unroutable(self, entry: Entry) -> None:
        """Settle `entry`, which no route matches."""
        now_us = self.now_us()
        self._settle(before_sending(entry, now_us, self._unknown) or unroutable(entry, now_us))

    async def run(self) -> None:
        """Write settlements to Redis until canceled."""
        await self._writer.run()

    def _let_go(self, count: int) -> None:
        self.in_hand -= count
        self.settled.set()
        self.freed.set()

    def _settle(self, settlement: Settlement) -> None:
        if settlement.row is not None and not self._readable(settlement.row.event):
            due_at_us = self.now_us() + int(_WAITS_S * 1e6)
            settlement = in_older_words(settlement, self._unknown, due_at_us)
        self._writer.add(settlement)
        self.freed.set()
