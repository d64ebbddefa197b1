"""Service: receipts to the messages they are about, each recorded once, in rounds.

Providers' receipts lie in Redis as they came (`engine.receipts.ports.ReceiptSink`). Matchers share the
shards (`engine.leases.shard_leases`). A matcher reads the receipts of its shards, and decides about the
attempts that have their *home* there (`engine.receipts.homes`), whatever shard their organisation has. For
each home it first *begins*: from then on only it may record there, and it waits until everything that was
recorded before is in the store. Then, in rounds:

  1 read     receipts of its shards that came, and those that were set aside until now
  2 look up  their attempts in the store, and what receipts have made of these before
  3 record   what is new, on the activity stream of each message's own shard
  4 hand on  receipts whose attempt has its home elsewhere, to the stream of that home
  5 finish   remove the receipts; those without an attempt yet are set aside in the same
             step, for longer each time, and are given up in the end

Each receipt is recorded exactly once, because a receipt that adds nothing to what is recorded about
its attempt writes nothing. What is recorded is in the store, or it was recorded since this matcher
began, and the matcher remembers it (`Unseen`) until it is in the store. This one mechanism covers a
provider that sends a receipt twice, days apart, a receipt that is handed on twice, and a matcher that dies
and leaves its receipts to the next:

  step       killed                          frozen, wakes after another has begun
  1, 2       nothing was changed             `record` is refused
  3 record   some shards have their rows:    refused; or done before the other began,
             the next one waits until they   who waits until that is in the store
             are in the store, and finds
             the receipts known
  4 hand on  some are there twice, and are   they are there once more, and are found known
             found known
  5 finish   some are removed: the rest      removes what was recorded or handed on in any case,
             are found known                 and sets aside only what it removes itself

  never answered,    `record` has a number and is passed over the second time, also when it comes late;
  or answered twice  `hand on` is found known; `finish` does nothing the second time
  a shard goes to    it is given back between two rounds; the other begins, and waits until all is in
  another            the store
  the store away     receipts wait in Redis, nothing else stops
  Redis away         the round goes on where it was
  Redis lost data    `record` is refused, and the matcher begins anew

A receipt may be early: its attempt is not in the store yet, because the archiver is a second or an
hour behind, or because the provider sent the receipt before its answer. So the age of a receipt goes by
the archiver's clock: what came before `archived_us` is in the store. A receipt is given up when it
is old by that clock, and its message should have been found long ago.

One bound: an attempt stays in the store for a week (see 0003_receipts.sql). A receipt that
comes later finds nothing and is given up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from functools import partial

import msgspec
import structlog

from engine.activity.blocks import ReadSize, oldest
from engine.activity.numbers import PLAIN, Numbers
from engine.activity.records import ActivityEntry
from engine.clocks.backoff import pause_after
from engine.clocks.waits import until_tick_ms
from engine.errors import Unavailable
from engine.receipts.batch import Search, Unseen
from engine.receipts.ends import Ends, MatchCounts
from engine.receipts.homes import home_of
from engine.receipts.ids import IdForms
from engine.receipts.match import Match, Reason, sent_again
from engine.receipts.ports import (
    AttemptStore,
    Finished,
    FinishedLate,
    Insist,
    LateEntry,
    MatchLimits,
    ReceiptStream,
    Recording,
)
from engine.receipts.records import LateReceipt, Receipt
from engine.records import NO_RECORD
from engine.shards import shard_of
from engine.stream_id import StreamId

log = structlog.get_logger()

_receipts_in = msgspec.msgpack.Decoder(list[Receipt]).decode
_late_receipt_in = msgspec.msgpack.Decoder(LateReceipt).decode
_encode = msgspec.msgpack.Encoder().encode


class _Pending(msgspec.Struct, frozen=True, kw_only=True):
    """Receipts in hand, and where they come from."""

    receipts: list[Receipt]
    # How often each of them was looked up before.
    tries: list[int]
    # The entries that they came in, with the places of their receipts in `receipts`.
    entries: list[tuple[ActivityEntry, range]]
    # Receipts that were set aside, each with its place.
    late: list[tuple[LateEntry, int]]
    # What cannot be read.
    unreadable: list[ActivityEntry | LateEntry]


class Rounds:
    """The rounds of one matcher; see the module. Before each `round` call `have` and `caught_up`.

    `counts` says what they have come to.
    """

    def __init__(
        self,
        stream: ReceiptStream,
        store: AttemptStore,
        *,
        shards: int,
        receipt_ids: Mapping[str, IdForms],
        per_message: Collection[str] = (),
        now_us: Callable[[], int],
        limits: MatchLimits,
        numbers: Numbers = PLAIN,
        given_up: Callable[[Receipt, Reason], None] = lambda receipt, reason: None,
    ) -> None:
        """`shards`: how many there are. `receipt_ids` by provider, "auto" for those not named.
        `per_message`, `numbers`: see `Search`. `given_up` is called with each receipt for which no message
        was found."""
        self._stream = stream
        self._store = store
        self._shards = shards
        self._receipt_ids = receipt_ids
        self._per_message = per_message
        self._now_us = now_us
        self._limits = limits
        self._numbers = numbers
        self._given_up = given_up
        # By home, the token under which this matcher has begun there.
        self._tokens: dict[int, str] = {}
        # By home, the last ids on the activity streams when it began; only those of which not all that was
        # recorded before is in the store yet.
        self._behind: dict[int, Mapping[int, StreamId]] = {}
        # The number of the last step that was recorded.
        self._number = 0
        # Whether the last round found nothing, so that the next one waits for receipts.
        self._idles = False
        self._unseen = Unseen()
        self._pace = ReadSize()
        self.counts = MatchCounts()
        # By provider; and by provider and the reason why they were given up.
        self.matched: Counter[tuple[str, ...]] = Counter()
        self.unmatched: Counter[tuple[str, ...]] = Counter()
        self.ends = Ends()

    async def have(self, homes: Collection[int], token: str) -> None:
        """Let nobody but this matcher record in these homes from now on, and record in no others.

        Those that it did not have begin under `token`, which is never used again. Raises Unavailable.
        """
        for gone in self._tokens.keys() - set(homes):
            del self._tokens[gone]
            self._behind.pop(gone, None)
        fresh = set(homes) - self._tokens.keys()
        if not fresh:
            return
        self._behind |= dict.fromkeys(fresh, await self._stream.begin(token, fresh))
        self._tokens |= dict.fromkeys(fresh, token)

    def begin_anew(self) -> None:
        """Forget everything: others have begun, or Redis lost data."""
        self._unseen.clear()
        self._tokens.clear()
        self._behind.clear()
        self._idles = False

    async def caught_up(self) -> bool:
        """Whether all that others recorded in one of the homes is in the store; before that, make no rounds.

        Raises Unavailable.
        """
        if self._behind:
            firsts = await self._stream.archived_before()
            self._behind = {
                home: ends
                for home, ends in self._behind.items()
                if not all(first is None or first > ends[shard] for shard, first in firsts.items())
            }
        return bool(self._decides())

    def _decides(self) -> list[int]:
        """The homes in which this matcher decides: all that others recorded there is in the store."""
        return [home for home in self._tokens if home not in self._behind]

    async def round(self, insist: Insist) -> bool:
        """Make one round, of the homes that have caught up; returns whether there is likely more to do at
        once.

        `insist` makes a step again and again until it is done. Raises Fenced, and Unavailable, after
        which the next round takes things as they are.
        """
        limits, homes = self._limits, self._decides()
        idle_ms = until_tick_ms(limits.idle_s) if self._idles and not self._behind else 0
        count = self._pace.entries_wanted(limits.batch_max)
        found = await self._stream.read(homes, count, idle_ms)
        late = await self._stream.due(homes, self._now_us(), limits.batch_max)
        self._idles = not found and not late
        if self._idles:
            return not self._behind
        self._pace.note(found)
        pending = _pending(oldest(found, limits.batch_max)[0], late)
        archived_us = await self._archived_us()
        search = Search(
            pending.receipts,
            self._receipt_ids,
            archived_us - round(limits.settled_s * 1_000_000),
            self._per_message,
            self._numbers,
        )
        await self._look_up(search)
        elsewhere = self._elsewhere(search.outcomes, homes)
        recordings = await self._recordings(search, elsewhere)
        later = await self._give_up(pending, search.outcomes, archived_us)
        if recordings:
            await self._record(recordings, insist)
        if elsewhere:
            await self._hand_on(pending.receipts, elsewhere, insist)
        await insist(partial(self._finish, pending, later))
        receipts = enumerate(zip(pending.receipts, search.outcomes, strict=True))
        found_by = [
            (receipt.provider,)
            for place, (receipt, outcome) in receipts
            if isinstance(outcome, Match) and place not in elsewhere
        ]
        self.counts.matched += len(found_by)
        self.matched.update(found_by)
        self.counts.set_aside += len(later)
        return len(pending.receipts) >= limits.batch_max // 2

    async def _archived_us(self) -> int:
        """A time: all that was put on any activity stream before it is in the store."""
        now_us = self._now_us()
        firsts = await self._stream.archived_before()
        self._unseen.forget(firsts)
        if len(self._unseen) > self._limits.unseen_max:
            raise Unavailable("The archiver is too far behind for receipts to be matched.")
        return min([now_us, *(first.ms * 1000 for first in firsts.values() if first)])

    async def _look_up(self, search: Search) -> None:
        search.learn(await self._store.filed(search.first_keys()))
        keys, message_ids = search.further_keys(), search.message_ids()
        if keys or message_ids:
            under = await self._store.filed(keys)
            search.learn(under, await self._store.filed_by_message(message_ids))

    def _elsewhere(self, outcomes: Sequence[Match | Reason], homes: Collection[int]) -> dict[int, int]:
        """By place, the homes of the attempts about which another matcher decides, or this one later."""
        if len(homes) == self._shards:
            return {}
        here = set(homes)
        found = (
            (place, home_of(outcome.attempt, self._shards))
            for place, outcome in enumerate(outcomes)
            if isinstance(outcome, Match)
        )
        return {place: home for place, home in found if home not in here}

    async def _recordings(self, search: Search, elsewhere: Container[int]) -> dict[int, Recording]:
        """What to put on the activity streams, by shard, and the messages to send again."""
        attempts = search.rows(self._unseen, elsewhere)
        lost = [rows[-1] for rows in attempts if rows[-1].event == "undelivered"]
        kept = await self._store.kept([(row.message_id, row.attempt) for row in lost])
        recordings: dict[int, Recording] = {}
        now_us = self._now_us()
        for rows in attempts:
            last = rows[-1]
            shard = shard_of(last.organisation_id, self._shards)
            recording = recordings.setdefault(shard, Recording([], [], set()))
            recording.homes.add(home_of(last, self._shards))
            message = kept.get((last.message_id, last.attempt)) if last.event == "undelivered" else None
            if message and last.queue and (again := sent_again(last, message, now_us)):
                rows[-1] = again[0]
                recording.again.append((last.queue, now_us, again[1]))
            recording.rows.extend(rows)
        return recordings

    async def _give_up(
        self, pending: _Pending, outcomes: Sequence[Match | Reason], archived_us: int
    ) -> dict[int, tuple[int, bytes]]:
        """Give up the receipts without a message that are too old.

        Returns the others without a message, by their place: when to look each up again, and the
        encoded `LateReceipt` that is set aside until then.
        """
        too_old_us = archived_us - round(self._limits.give_up_s * 1_000_000)
        later: dict[int, tuple[int, bytes]] = {}
        over: list[tuple[Receipt, Reason]] = []
        for place, outcome in enumerate(outcomes):
            receipt, tries = pending.receipts[place], pending.tries[place]
            if isinstance(outcome, Match):
                continue
            if receipt.at_us < too_old_us:
                over.append((receipt, outcome))
                continue
            pause_s = pause_after(tries + 1, self._limits.again_s, self._limits.again_max_s)
            due_at_us = self._now_us() + round(pause_s * 1_000_000)
            later[place] = (due_at_us, _encode(LateReceipt(receipt=receipt, tries=tries + 1)))
        if over:
            await self._store.give_up(over, self._now_us())
            for receipt, reason in over:
                self.counts.give_up(reason)
                self.unmatched[receipt.provider, reason] += 1
                self._given_up(receipt, reason)
        return later

    async def _record(self, recordings: Mapping[int, Recording], insist: Insist) -> None:
        self._number += 1
        ids: dict[int, StreamId] = {}

        async def record() -> None:
            ids.update(await self._stream.record(self._tokens, self._number, recordings))

        await insist(record)
        for shard, recording in recordings.items():
            self._unseen.add(shard, ids[shard], recording.rows)
            self.counts.recorded += len(recording.rows)
            self.ends.add(recording.rows)
            self.counts.sent_again += len(recording.again)

    async def _hand_on(
        self, receipts: Sequence[Receipt], elsewhere: Mapping[int, int], insist: Insist
    ) -> None:
        by_home: dict[int, list[Receipt]] = {}
        for place, home in elsewhere.items():
            by_home.setdefault(home, []).append(receipts[place])
        await insist(partial(self._stream.hand_on, by_home))
        self.counts.handed_on += len(elsewhere)

    async def _finish(self, pending: _Pending, later: Mapping[int, tuple[int, bytes]]) -> None:
        entries = [
            Finished(entry, [later[place] for place in places if place in later])
            for entry, places in pending.entries
        ]
        late = [FinishedLate(entry, later.get(place)) for entry, place in pending.late]
        for unreadable in pending.unreadable:
            if isinstance(unreadable, LateEntry):
                late.append(FinishedLate(unreadable, None))
            else:
                entries.append(Finished(unreadable, [], unreadable=True))
            log.error("receipts cannot be read, set aside", shard=unreadable.shard)
        await self._stream.finish(entries, late)


def _pending(entries: Sequence[ActivityEntry], late: Sequence[LateEntry]) -> _Pending:
    pending = _Pending(receipts=[], tries=[], entries=[], late=[], unreadable=[])
    for entry in entries:
        try:
            receipts = _receipts_in(entry.blob)
        except NO_RECORD:
            pending.unreadable.append(entry)
            continue
        first = len(pending.receipts)
        pending.entries.append((entry, range(first, first + len(receipts))))
        pending.receipts.extend(receipts)
        pending.tries.extend([0] * len(receipts))
    for set_aside in late:
        try:
            found = _late_receipt_in(set_aside.member)
        except NO_RECORD:
            pending.unreadable.append(set_aside)
            continue
        pending.late.append((set_aside, len(pending.receipts)))
        pending.receipts.append(found.receipt)
        pending.tries.append(found.tries)
    return pending
