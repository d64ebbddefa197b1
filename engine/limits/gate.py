"""Rule: whether a request of an organisation is within its limits, as one ingest process knows.

A request is taken in as a whole, or refused as a whole before anything else is done for it. Nothing here asks
Redis.

rate_max     A bucket of tokens that holds one second of the rate, and at least one message. A request of
             more messages than that needs a full bucket, and overdraws it. The bucket is in Redis, where each
             flush draws what it admits and is told what is left (`draw` in functions/queue). In between, a
             process counts what it has under way itself. So on average the rate is exact, whatever the
             number of processes; for a moment each of them may take in one flush beyond it. With another
             rate, an overdrawn bucket has room again when it would have had it, or sooner.
backlog_max  A flush is told how much its organisations have waiting. One that has half of its limit is
             *watched*: what waits of it is looked up again and again (`engine.limits.watch`), and what this
             process takes in meanwhile is added. So the limit may be passed by what all processes take in
             between two looks.

A process that does not know what waits, because Redis does not answer, refuses nobody for it: without Redis
nothing is taken in anyway.

Times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from engine.errors import TooMany
from engine.limits.records import Backlog, RateLevel
from engine.organisations import Limits
from engine.written_numbers import plural

# What waits is not believed any more after so long without a look, seconds.
_STALE_S = 5.0
# Organisations that are watched at the same time.
_WATCHED_MAX = 10_000
# When nobody knows the pace of a backlog, nobody knows when there is room: the caller comes back after,
# seconds.
_UNKNOWN_S = 60.0
_RETRY_MAX_S = 3600.0
_NONE = Limits()


class Gate:
    """The limits of the organisations that send through one process."""

    def __init__(
        self,
        limits_of: Callable[[int], Limits] = lambda organisation_id: _NONE,
        *,
        backlog_max: int = 1_000_000,
        clock_s: Callable[[], float],
    ) -> None:
        """`limits_of`: what was set for an organisation. `backlog_max`: of those of which nothing was set."""
        self._limits_of = limits_of
        self._backlog_max = backlog_max
        self._clock_s = clock_s
        self._buckets: dict[int, _Bucket] = {}
        self._watched: dict[int, _Watched] = {}

    def enter(self, organisation_id: int, messages: int) -> float:
        """Let a request of so many messages in; returns the rate that it is held to, 0 when to none.

        With a rate, the caller calls `leave` when the outcome is known. Raises TooMany.
        """
        limits = self._limits_of(organisation_id)
        watched = self._watched.get(organisation_id)
        if watched is not None:
            self._check_backlog(limits, watched, messages)
        if limits.rate_max is not None:
            now_s = self._clock_s()
            bucket = self._buckets.get(organisation_id)
            if bucket is None:
                bucket = self._buckets[organisation_id] = _Bucket(limits.rate_max, now_s)
            bucket.take(messages, limits.rate_max, now_s)
        if watched is not None:
            watched.came += messages
        return limits.rate_max or 0.0

    def leave(self, organisation_id: int, messages: int) -> None:
        """The outcome of a request is known: it was drawn from the bucket in Redis, or never will be."""
        self._buckets[organisation_id].under_way -= messages

    def heed(self, backlogs: Iterable[Sequence[int]], levels: Iterable[RateLevel]) -> None:
        """Note what a flush was told: (organisation, its messages that wait), and what buckets have left."""
        now_s = self._clock_s()
        for organisation_id, messages in backlogs:
            known = organisation_id in self._watched or len(self._watched) >= _WATCHED_MAX
            if not known and 2 * messages >= self._most(self._limits_of(organisation_id)):
                backlog = Backlog(organisation_id, messages, messages, None, False)
                self._watched[organisation_id] = _Watched(backlog, now_s)
        for organisation_id, tokens, rate in levels:
            bucket = self._buckets.get(organisation_id)
            if bucket is not None:
                # The rate may be another by now: `take` sees that.
                bucket.tokens, bucket.rate, bucket.at_s = tokens, rate, now_s

    def watched(self) -> list[int]:
        """The organisations whose backlogs are to be looked up."""
        return list(self._watched)

    def see(self, backlogs: Iterable[Backlog]) -> None:
        """Note what was looked up. Those that have less than half of their limit are watched no more."""
        now_s = self._clock_s()
        for backlog in backlogs:
            if 2 * backlog.messages < self._most(self._limits_of(backlog.organisation_id)):
                self._watched.pop(backlog.organisation_id, None)
            else:
                self._watched[backlog.organisation_id] = _Watched(backlog, now_s)

    def _most(self, limits: Limits) -> int:
        return self._backlog_max if limits.backlog_max is None else limits.backlog_max

    def _check_backlog(self, limits: Limits, watched: _Watched, messages: int) -> None:
        most, waiting = self._most(limits), watched.backlog.messages + watched.came
        too_many = waiting + messages - most
        if too_many <= 0 or self._clock_s() - watched.seen_s > _STALE_S:
            return
        paused = " and is paused" if watched.backlog.paused else ""
        raise TooMany(
            "backlog_full",
            f"The organisation has {waiting} {plural('message', waiting)} waiting{paused}, and its limit"
            f" `backlog_max` is {most}; send the request again later.",
            "backlog_max",
            quota=most,
            window_s=0,
            remaining=max(0, most - waiting),
            retry_after_s=drained_in_s(watched.backlog, too_many),
        )


class _Watched:
    """An organisation with much waiting."""

    __slots__ = ("backlog", "came", "seen_s")

    def __init__(self, backlog: Backlog, seen_s: float) -> None:
        self.backlog = backlog
        self.seen_s = seen_s
        # Messages that this process took in since.
        self.came = 0


class _Bucket:
    """What this process knows of an organisation's bucket in Redis."""

    __slots__ = ("at_s", "entered_at", "rate", "tokens", "under_way")

    def __init__(self, rate: float, at_s: float) -> None:
        self.tokens = full(rate)
        self.at_s = at_s
        # At which it has filled since.
        self.rate = rate
        # Messages that are let in, and not drawn in Redis as far as this process knows; and the highest rate
        # at which one of them was.
        self.under_way = 0
        self.entered_at = rate

    def take(self, messages: int, rate: float, now_s: float) -> None:
        """Let a request in. Raises TooMany."""
        if rate != self.rate:
            self._change(rate, now_s)
        most = full(rate)
        tokens = min(most, self.tokens + (now_s - self.at_s) * rate) - self.under_way
        needed = min(float(messages), most)
        if not self.under_way or rate > self.entered_at:
            self.entered_at = rate
        if tokens < needed:
            # What is under way will be a debt at the rate at which it was let in.
            under_way = min(needed - tokens, float(self.under_way))
            raise TooMany(
                "rate_limited",
                f"The organisation's limit `rate_max` is {rate:g} {plural('message', rate)} a second;"
                " send the request again later.",
                "rate_max",
                quota=most,
                window_s=max(1, round(most / rate)),
                remaining=max(0.0, tokens),
                retry_after_s=(needed - tokens - under_way) / rate + under_way / self.entered_at,
            )
        self.under_way += messages

    def _change(self, rate: float, now_s: float) -> None:
        """The organisation has another rate, as `draw` in functions/queue sees it."""
        tokens = self.tokens + (now_s - self.at_s) * max(rate, self.rate)
        self.tokens = max(tokens, tokens * rate / self.rate) if tokens < 0 else tokens
        self.at_s, self.rate = now_s, rate


def full(rate: float) -> float:
    """The most messages at once, with a rate of so many messages a second."""
    return max(1.0, rate)


def drained_in_s(backlog: Backlog, messages: int) -> float:
    """When so many messages fewer will wait, seconds from now, at the pace at which they leave."""
    if backlog.paused or not backlog.rate or not backlog.segments:
        return _UNKNOWN_S
    rate = backlog.rate * backlog.messages / backlog.segments
    return min(max(1.0, messages / rate), _RETRY_MAX_S)
