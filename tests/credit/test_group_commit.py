"""Group commit: when a flush is sent, and when its clients are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

from engine.credit.flush import Admitted, Flush
from engine.credit.group_commit import GroupCommit
from engine.credit.memory_mark import MemoryMark
from engine.credit.ports import AdmissionStore
from engine.records import Submission
from tests.credit.test_flush import submission


class _Redis:
    """Holds each flush up until the test answers it."""

    def __init__(self, seen: list[str]) -> None:
        self._seen = seen
        self.waiting: list[tuple[Sequence[Flush], asyncio.Future[list[Admitted]]]] = []
        # Set when flushes wait that were not answered.
        self.asked = asyncio.Event()

    async def admit(self, name: str, flushes: Sequence[Flush], timeout_s: float) -> list[Admitted]:
        self._seen += [f"flush of {len(flush.submissions)}" for flush in flushes]
        answer: asyncio.Future[list[Admitted]] = asyncio.get_running_loop().create_future()
        self.waiting.append((flushes, answer))
        self.asked.set()
        return await answer

    def answer(self, *, but: int = 0) -> None:
        """Answer the flushes that came first together, `but` the last so many of them."""
        flushes, answer = self.waiting.pop(0)
        self.asked.clear()
        answer.set_result([Admitted(len(f.submissions), {}) for f in flushes[: len(flushes) - but]])


class _World:
    def __init__(self, group: asyncio.TaskGroup) -> None:
        # What happened, in order.
        self.seen: list[str] = []
        self.redis = _Redis(self.seen)
        self.commits = GroupCommit(
            cast(AdmissionStore, self.redis),
            "h",
            shards=2,
            messages_max=1000,
            memory=MemoryMark(),
            fenced=asyncio.Event(),
            release=_unused,
            heed=lambda admitted: None,
        )
        self.commits.registered([1, 1])
        self.commits.serve(group)

    def submit(self, *names: str, shard: int = 0) -> None:
        for name in names:
            self.commits.submit(shard, submission(), partial(self._told, name))

    def _told(self, name: str, outcome: Any) -> None:
        assert outcome is None
        self.seen.append(f"{name} told")

    def take(self) -> list[str]:
        """What has happened since the last call."""
        seen, self.seen[:] = list(self.seen), []
        return seen

    async def begin(self) -> None:
        """A flush of two is under way, so that the next clients count as several."""
        self.submit("a", "b")
        await turns()
        assert self.take() == ["flush of 2"]


def _unused(submission: Submission) -> None:
    raise AssertionError("units were released")


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@asynccontextmanager
async def world() -> AsyncIterator[_World]:
    async with asyncio.TaskGroup() as group, asyncio.timeout(20):
        yield _World(group)


async def test_what_has_gathered_goes_to_redis_before_the_answers_are_written() -> None:
    async with world() as w:
        await w.begin()
        w.submit("c", "d")
        await turns()
        assert w.take() == []
        w.redis.answer()
        await turns()
        assert w.take() == ["flush of 2", "a told", "b told"]
        w.redis.answer()
        await turns()
        assert w.take() == ["c told", "d told"]


async def test_what_has_gathered_goes_to_redis_in_the_turn_of_the_answer() -> None:
    async with world() as w:
        await w.begin()
        w.submit("c", "d")
        await turns()
        w.redis.answer()
        await turns(1)
        assert w.take() == ["flush of 2"]
        w.redis.answer()


async def test_what_gathered_behind_one_flush_does_not_wait_for_another_that_is_sent_again() -> None:
    async with world() as w:
        w.submit("a", "b")
        w.submit("c", "d", shard=1)
        await turns()
        w.submit("e", "f")
        w.take()
        w.redis.answer(but=1)
        await turns()
        assert w.take() == ["a told", "b told", "flush of 2"]
        w.redis.answer()
        await turns()
        assert w.take() == ["e told", "f told"]
        await w.redis.asked.wait()
        assert w.take() == ["flush of 2"]
        w.redis.answer()


async def test_who_is_answered_first_is_in_the_flush_behind_when_few_have_gathered() -> None:
    async with world() as w:
        w.submit("a", "b", "c", "d")
        await turns()
        w.submit("e")
        w.take()
        w.redis.answer()
        await turns()
        assert w.take() == ["a told", "b told", "c told", "d told", "flush of 1"]
        w.redis.answer()


async def test_flushes_of_several_shards_go_together_before_the_answers() -> None:
    async with world() as w:
        w.submit("a", "b")
        w.submit("c", "d", shard=1)
        await turns()
        assert w.take() == ["flush of 2"] * 2
        w.submit("e")
        w.submit("f", "g", shard=1)
        w.redis.answer()
        await turns()
        assert w.take() == ["flush of 1", "flush of 2", "a told", "b told", "c told", "d told"]
        assert len(w.redis.waiting) == 1
        w.redis.answer()


async def test_what_comes_in_one_turn_goes_together_and_waits_for_nobody_else() -> None:
    async with world() as w:
        for names in ("ab", "c", "def"):
            w.submit(*names)
            # The flush is scheduled, its task begins.
            await turns(2)
            assert w.take() == [f"flush of {len(names)}"]
            w.redis.answer()
            await turns(3)
            assert w.take() == [f"{name} told" for name in names]


async def test_a_drain_ends_when_all_clients_are_told() -> None:
    async with world() as w:
        await w.begin()
        w.submit("c", "d")
        drain = asyncio.create_task(w.commits.drain())
        while not drain.done():
            await asyncio.sleep(0)
            if w.redis.waiting:
                w.redis.answer()
        assert w.take() == ["flush of 2", "a told", "b told", "c told", "d told"]
