"""What providers sent and was not understood, of all processes: counts by time and the last samples.

Of a provider there is a hash with the count and the last time of each kind, a hash for each of the last
hours with its counts by minute, and a list of the last samples of each kind. Their names are in
`engine.redis_keys`.

Killed, or never answered: a batch may have been applied in part; sent again, what it counted counts twice.
Redis full: every command of the batch is refused, and nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from engine.clocks.store_clock import wall_us
from engine.errors import Unavailable
from engine.problem_records import Noted, Problem, ProblemKind
from engine.redis_keys import problem_hour_key, problem_samples_key, problems_key
from engine.stores.redis.link import Command, RedisLink
from engine.stores.redis.wire import ReplyError

SAMPLES_KEPT = 20
# How many hours are counted apart, the present one included.
HOURS = 48
# Of each: seconds after the last problem until it is forgotten.
_TOTAL_S = 90 * 86_400
_SAMPLES_S = 7 * 86_400
_HOUR_S = (HOURS + 1) * 3600
_HOUR_MINUTES = 60
_DAY_HOURS = 24

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Problem).decode


class ProblemCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How often one provider sent something of one kind that was not understood."""

    provider: str
    kind: ProblemKind
    # In the last 60 minutes, the last 24 hours, and in all; all is forgotten after 90 days without.
    last_hour: int
    last_day: int
    total: int
    # Of the last one; UTC, microseconds since 1970.
    last_at_us: int
    # By clock hour, the present one last: HOURS numbers.
    hours: list[int]
    # The newest first; only when one provider is asked for.
    samples: list[Problem] = []


class RedisProblems:
    """The counts and samples in Redis. `link` belongs to the caller."""

    def __init__(self, link: RedisLink, now_us: Callable[[], int] = wall_us) -> None:
        """`now_us`: the time, UTC, microseconds since 1970."""
        self._link = link
        self._now_us = now_us

    async def add(self, noted: Sequence[Noted]) -> None:
        """Add a collection, in one batch. Raises Unavailable."""
        minute = self._now_us() // 60_000_000
        hour, place = divmod(minute, _HOUR_MINUTES)
        commands: list[Command] = []
        for one in noted:
            total, counts = problems_key(one.provider), problem_hour_key(one.provider, hour)
            last_at_us = one.samples[-1].at_us if one.samples else minute * 60_000_000
            commands += [
                ("HINCRBY", total, f"{one.kind}:count", one.count),
                ("HSET", total, f"{one.kind}:last", last_at_us),
                ("EXPIRE", total, _TOTAL_S),
                ("HINCRBY", counts, f"{one.kind}:{place}", one.count),
                ("EXPIRE", counts, _HOUR_S),
            ]
            if one.samples:
                samples = problem_samples_key(one.provider, one.kind)
                commands += [
                    ("LPUSH", samples, *map(_encode, one.samples)),
                    ("LTRIM", samples, 0, SAMPLES_KEPT - 1),
                    ("EXPIRE", samples, _SAMPLES_S),
                ]
        await self._link.batch(commands)

    async def last_hour(self, providers: Sequence[str]) -> int:
        """How often any of the providers sent something in the last 60 minutes. Raises Unavailable."""
        return sum(one.last_hour for one in await self._counts(providers, 2))

    async def counts(self, providers: Sequence[str]) -> list[ProblemCounts]:
        """The counts of every kind that any of the providers has, without samples. Raises Unavailable."""
        return await self._counts(providers, HOURS)

    async def of(self, provider: str) -> list[ProblemCounts]:
        """The counts of one provider with the samples of each kind. Raises Unavailable."""
        found = await self._counts([provider], HOURS)
        lists = await self._link.batch(
            [("LRANGE", problem_samples_key(provider, one.kind), 0, -1) for one in found]
        )
        return [
            msgspec.structs.replace(one, samples=[_decode(sample) for sample in samples])
            for one, samples in zip(found, lists, strict=True)
            if not isinstance(samples, ReplyError)
        ]

    async def _counts(self, providers: Sequence[str], hours: int) -> list[ProblemCounts]:
        """As `counts`, by the last `hours` alone, in one batch."""
        minute = self._now_us() // 60_000_000
        hour = minute // _HOUR_MINUTES
        commands: list[Command] = []
        for name in providers:
            commands.append(("HGETALL", problems_key(name)))
            commands += [("HGETALL", problem_hour_key(name, at)) for at in range(hour - hours + 1, hour + 1)]
        replies = await self._link.batch(commands)
        if failed := next((reply for reply in replies if isinstance(reply, ReplyError)), None):
            raise Unavailable(f"Redis does not show what providers sent: {failed}.") from failed
        each = hours + 1
        return [
            one
            for place, name in enumerate(providers)
            for one in _of_provider(
                name, minute, replies[place * each], replies[place * each + 1 : (place + 1) * each]
            )
        ]


def _of_provider(
    name: str, minute: int, total: Sequence[bytes], by_hour: Sequence[Sequence[bytes]]
) -> list[ProblemCounts]:
    """The counts of one provider at this `minute` since 1970, from its hash and those of the last hours."""
    totals = _pairs(total)
    # (kind, minute since 1970, count), oldest first.
    first = minute // _HOUR_MINUTES - len(by_hour) + 1
    counted = [
        (field.partition(":")[0], (first + at) * _HOUR_MINUTES + int(field.partition(":")[2]), count)
        for at, fields in enumerate(by_hour)
        for field, count in _pairs(fields).items()
    ]
    found = []
    for kind in ProblemKind:
        if f"{kind}:count" not in totals:
            continue
        mine = [(at, count) for of, at, count in counted if of == kind]
        hours = [0] * len(by_hour)
        for at, count in mine:
            hours[at // _HOUR_MINUTES - first] += count
        found.append(
            ProblemCounts(
                provider=name,
                kind=kind,
                last_hour=sum(count for at, count in mine if at > minute - _HOUR_MINUTES),
                last_day=sum(count for at, count in mine if at > minute - _DAY_HOURS * _HOUR_MINUTES),
                total=totals[f"{kind}:count"],
                last_at_us=totals.get(f"{kind}:last", 0),
                hours=hours,
            )
        )
    return found


def _pairs(reply: Sequence[bytes]) -> dict[str, int]:
    """The reply of HGETALL."""
    return {field.decode(): int(value) for field, value in zip(reply[::2], reply[1::2], strict=True)}
