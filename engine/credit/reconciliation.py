"""What a ledger does before it leads: it brings the books and every shard of Redis together.

A shard is new, or goes on where the books are, or one of the two went back (`losses.py`). What cannot go
on is closed: all quotas end, and the books hold what Redis holds. Killed, frozen or not answered at any
step: the next ledger begins anew and comes to the same end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import structlog

from engine.credit.ledger_records import Books, LostSpan, Recovered, ShardLife, StreamMark
from engine.credit.losses import BOTH, Loss, goes_on, loss_of
from engine.credit.ports import LedgerStore, UsageStream
from engine.credit.posting import close_books
from engine.stream_id import STREAM_START, StreamId

log = structlog.get_logger("ledger")


class Reconciliation:
    """Brings the books and the shards together; see the module."""

    def __init__(self, store: LedgerStore, usage: UsageStream, fresh_generation: Callable[[], str]) -> None:
        """`fresh_generation` gives a name that was never used."""
        self._store = store
        self._usage = usage
        self._fresh_generation = fresh_generation

    async def reconcile(
        self, read: Mapping[int, StreamMark], generations: Mapping[int, str]
    ) -> tuple[Recovered, dict[int, int]]:
        """(The books, once every shard of Redis is in the life that they name; by shard, the row of the
        last answer that it was given).

        `read`: how far each shard was read by this ledger, in `generations`; both empty at its start. Raises
        Unavailable, and Broken when Redis is not the one that the books refer to.
        """
        await self._usage.prepare()
        recovered = await self._store.recover()
        lives = await self._usage.lives(recovered.marks)
        losses = await self._losses(lives, recovered, _furthest(recovered, read, generations))
        delivered = {life.shard: life.delivered for life in lives}
        fresh = [life.shard for life in lives if life.shard not in recovered.generations]
        lost = [(life, loss) for life, loss in zip(lives, losses, strict=True) if loss.cause]
        unfinished = [life for life in lives if life.generation != recovered.generations.get(life.shard)]
        if any(loss.who in ("postgres", "both") for loss in losses):
            await self._bear_books_that_went_back(lives, losses)
        if fresh or lost:
            generation = self._fresh_generation()
            if any(loss.who in ("redis", "both") and not _cut_short(life) for life, loss in lost):
                # All shards are on one Redis. Of each the archiver may have stored events that Redis, back
                # in an older state, has again. Where PostgreSQL lost charges an audit goes on comparing:
                # those events are all that is left of the charges. A close that was cut short came after.
                await self._store.mark_lost(_spans_beside(lives, lost, recovered))
            for life, loss in lost:
                await self._close(life, generation, loss, recovered)
                delivered[life.shard] = 0
            await self._store.open_shards(generation, fresh)
            recovered = await self._store.recover()
        if fresh or lost or unfinished or any(life.seen_run != life.run for life in lives):
            # Holders may spend there only now, because the books are ready for their usage.
            await self._usage.begin(recovered.generations, lives[0].run)
        return recovered, delivered

    async def _losses(
        self, lives: Sequence[ShardLife], recovered: Recovered, furthest: Mapping[int, StreamMark]
    ) -> list[Loss]:
        """Of each shard what became of it, in order of the shards. Raises Broken for another Redis."""
        seen = lives if furthest == recovered.marks else await self._usage.lives(furthest)
        return [
            loss_of(life, recovered, furthest.get(life.shard, StreamMark()), beyond)
            for life, beyond in zip(lives, seen, strict=True)
        ]

    async def _bear_books_that_went_back(self, lives: Sequence[ShardLife], losses: Sequence[Loss]) -> None:
        """PostgreSQL went back: end what holders were granted in the time that it lost.

        Usage of that time is applied again, and may find less than was there the first time
        (`engine.credit.movements`). Killed in between: the next ledger finds the same notes in Redis and
        does it again; rows only count up further, and a fence of a fenced holder does nothing.
        """
        # All shards are in one PostgreSQL, also those that show nothing of it.
        shards = [life.shard for life in lives]
        trimmed = [
            life.shard
            for life, loss in zip(lives, losses, strict=True)
            if loss.who in ("postgres", "both") and loss.cause
        ]
        log.error(
            "PostgreSQL went back: a standby was promoted that was behind, or a backup was restored."
            " Its usage is applied again",
            shards_without_all_usage=trimmed,
            do="Look for top-ups of the lost time in your payments, put them back"
            " (`smsengine org topup`), then run `smsengine audit`.",
        )
        await self._store.leave_out_ids(max(life.delivered for life in lives))
        await self._usage.fence(await self._usage.spending(shards))

    async def _close(self, life: ShardLife, generation: str, loss: Loss, recovered: Recovered) -> None:
        """Close the books of a lost shard. Killed in between: the next ledger closes them again."""
        shard = life.shard
        mark = recovered.marks[shard]
        if loss.who == "both":
            generation += BOTH
        # Books that went back have applied none of what is still on the stream.
        known = (
            StreamMark(mark.position, life.follows)
            if loss.who == "postgres" and not _cut_short(life)
            else mark
        )
        left = await self._usage.close(life, generation, recovered.generations[shard], known)
        units = sum(of.held for of in left.values())
        log.error("closing the books of a shard", shard=shard, cause=loss.cause, units_kept=units)
        moved: dict[str, int] = {}

        def close(books: Books) -> None:
            close_books(books, shard, left, reopens=loss.who != "postgres")
            # It is decided again when accounts are found locked.
            moved.clear()
            for (_, _, movement), some in books.movements.items():
                moved[movement] = moved.get(movement, 0) + some

        held_up_by = await self._store.close_shard(generation, mark, close, _span(life, loss, mark))
        log.error(
            "the books of a shard are closed",
            shard=shard,
            # Of messages that are gone; of messages that are back, and charged when they are sent again.
            units_released=moved.get("release", 0),
            units_reopened=moved.get("reopen", 0),
        )
        if held_up_by:
            log.warning(
                "accounts of a closed shard are locked, and closed when they are not",
                shard=shard,
                held_up_by=held_up_by,
            )


def _cut_short(life: ShardLife) -> bool:
    """Whether a ledger began to close the shard and did not come to its books."""
    return life.generation is not None and life.generation.startswith("closing:")


def _span(life: ShardLife, loss: Loss, mark: StreamMark) -> LostSpan:
    """What a shard that is closed has lost; `mark`: where its books stand."""
    who = loss.who or "redis"
    if who == "redis":
        return LostSpan(life.shard, who, loss.cause, _kept(life))
    if goes_on(mark, life) and not _cut_short(life):
        # The close applies all that the books forgot, so what is missing was lost by Redis alone.
        return LostSpan(life.shard, "redis", loss.cause, _kept(life))
    if _cut_short(life) and life.note is not None:
        return LostSpan(life.shard, who, loss.cause, mark.position, _after(life.note.position))
    until = life.next_position or _after(life.last_position)
    return LostSpan(life.shard, who, loss.cause, mark.position, until)


def _kept(life: ShardLife) -> StreamId:
    """Up to where a Redis that went back still has what it had."""
    if life.generation is None or _cut_short(life):
        # It was emptied, or begun anew, and nobody knows any more how far the stream before went.
        return STREAM_START
    return life.ended or life.last_position


def _after(position: StreamId) -> StreamId:
    """A place in the millisecond after `position`; events lie near their usage, not at the same place."""
    return StreamId(position.ms + 1, 0)


def _spans_beside(
    lives: Sequence[ShardLife], lost: Sequence[tuple[ShardLife, Loss]], recovered: Recovered
) -> list[LostSpan]:
    """What the shards that are not closed have lost with Redis, as far as anybody knows."""
    closed = {life.shard for life, _ in lost}
    cause = next(loss.cause for _, loss in lost if loss.who in ("redis", "both"))
    return [
        LostSpan(life.shard, "redis", cause, _kept(life))
        for life in lives
        if life.shard in recovered.generations and life.shard not in closed
    ]


def _furthest(
    recovered: Recovered, read: Mapping[int, StreamMark], generations: Mapping[int, str]
) -> dict[int, StreamMark]:
    """How far each shard is known to have come: how far it was applied, or further, begun or read here.

    What a fence that was begun has ended may have been granted to others. Activity that belongs to
    entries which were read and are gone may be archived. So such a shard counts as lost, also when the
    books have not applied those entries.
    """
    marks = dict(recovered.marks)
    for shard, mark in recovered.begun.items():
        if mark.position > marks[shard].position:
            marks[shard] = mark
    for shard, mark in read.items():
        known = marks.get(shard)
        if known is None or generations[shard] != recovered.generations[shard]:
            continue
        if mark.position > known.position:
            marks[shard] = mark
    return marks
