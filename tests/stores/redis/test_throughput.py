"""One limit, kept by processes that share nothing but Redis: killed, frozen, and with it emptied.

How noise is kept out on a busy machine. That no second holds too much follows from clocks
that were read before and after, so it must hold however late everything is, and is asserted
of every second. That the limit is used does not: a machine that stands still sends nothing.
It is asserted of the best stretch of a run, a second and a half long, and a run in which
there was none is done over a few times; what is wrong with the timeline itself (a slot handed
out too late, or lost to everybody) would show in every stretch of every run.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import cast

import msgspec
import pytest

from engine.errors import Unavailable
from engine.records import Queue
from engine.redis_keys import rate_key, rate_wide_key
from engine.routing.ports import SlotRequest, Slots
from engine.routing.timing import timing
from engine.stores.redis.link import RedisLink, load_functions
from engine.stores.redis.throughput import HORIZON_US, RedisSlots
from supervisor.embedded.servers import start_redis
from tests import warm
from tests.adversity.proxy import Proxy
from tests.routing import throughput_model
from tests.routing.throughput_model import Sent, State, Timeline, most_in
from tests.stores.redis.throughput_process import RECORD

RUNS_MAX = 5
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of our own that writes nothing to disk: a busy one holds it up for half a second."""
    server = start_redis(tmp_path_factory.mktemp("pacing"))
    yield server.url
    server.stop(10)


@pytest.fixture
async def link(url: str) -> AsyncIterator[RedisLink]:
    link = RedisLink(url, timeout_s=5, name="test")
    await link.call("CONFIG", "SET", "appendonly", "no")
    await link.call("FLUSHDB")
    await load_functions(link)
    yield link
    await link.close()


def ask(
    segments: int, rate: float = 1000.0, queue: Queue = "normal", together: int = 1, provider: str = "p"
) -> SlotRequest:
    return SlotRequest(provider, queue, segments, rate, 0.2, together)


async def after_the_beginning(pace: RedisSlots, *asks: SlotRequest) -> None:
    """Past the first horizon of a timeline, in which there is nothing for normal."""
    await pace.reserve(asks)
    await asyncio.sleep(1.1 * HORIZON_US / 1e6)


# -- the functions


async def test_an_answer_that_is_late_is_not_waited_for_and_the_connection_goes_on(
    link: RedisLink, url: str
) -> None:
    async with Proxy.to(url) as proxy:
        slow = RedisLink(proxy.url(url), timeout_s=5, name="slow")
        await slow.start()
        pace = RedisSlots(slow)
        await after_the_beginning(RedisSlots(slow, answer_s=5.0), ask(1))
        proxy.stall()
        # By its own time-out the link would wait a hundred times as long.
        async with asyncio.timeout(2.5):
            with pytest.raises(Unavailable, match=r"within 500 ms"):
                await pace.reserve([ask(1)])
        proxy.flow()
        assert await RedisSlots(slow, answer_s=5.0).reserve([ask(3)])
        assert proxy.accepted == 1
        await slow.close()


async def test_asks_are_answered_in_order_each_from_its_own_timeline(link: RedisLink) -> None:
    pace = RedisSlots(link, answer_s=5.0)
    asks = [
        ask(5, 1000.0, provider="a"),
        ask(7, 100.0, provider="b", together=7),
        ask(3, 5000.0, provider="c"),
    ]
    await after_the_beginning(pace, *asks)
    slots = await pace.reserve(asks)
    assert [s.segments for s in slots] == [5, 7, 3]
    assert [s.interval_us for s in slots] == [timing(a.rate).interval_s * 1e6 for a in asks]
    assert await pace.reserve([]) == []


async def test_slots_follow_each_other_and_reach_no_further_than_the_horizon(link: RedisLink) -> None:
    pace = RedisSlots(link, answer_s=5.0)
    await after_the_beginning(pace, ask(1))
    ends = []
    for queue, reach_us in (("normal", HORIZON_US / 2), ("express", HORIZON_US)):
        for _ in range(20):
            [slots] = await pace.reserve([ask(10_000, queue=cast(Queue, queue))])
            if slots.segments:
                ends.append(slots.delay_us + (slots.segments - 1) * slots.interval_us)
                assert ends[-1] <= reach_us + 1
            else:
                assert 0 < slots.delay_us < HORIZON_US
    assert max(ends) > 0.55 * HORIZON_US


async def test_a_redis_without_functions_is_given_them(link: RedisLink) -> None:
    pace = RedisSlots(link, answer_s=5.0)
    await link.call("FUNCTION", "FLUSH")
    with pytest.raises(Unavailable):
        await pace.reserve([ask(1, queue="express")])
    [slots] = await pace.reserve([ask(1, queue="express")])
    assert slots.segments == 1
    # Those of the queue and of credit are there again too.
    assert len(await link.call("FUNCTION", "LIST")) >= 2


async def test_after_redis_was_emptied_no_slot_is_given_twice(link: RedisLink) -> None:
    pace = RedisSlots(link, answer_s=5.0)
    await after_the_beginning(pace, ask(1))
    await pace.reserve([ask(10_000, queue="express")])
    await link.call("FLUSHDB")
    [slots] = await pace.reserve([ask(1, queue="express")])
    assert slots.delay_us >= HORIZON_US


async def test_what_redis_refuses_is_unavailable(link: RedisLink) -> None:
    await link.call("LPUSH", rate_key("p"), "no timeline")
    with pytest.raises(Unavailable, match="gives no slots"):
        await RedisSlots(link, answer_s=5.0).reserve([ask(1)])
    await link.close()
    with pytest.raises(Unavailable):
        await RedisSlots(link, answer_s=5.0).reserve([ask(1)])


@pytest.mark.parametrize("rate", [20.0, 60.0, 200.0, 1000.0])
async def test_the_model_in_python_decides_as_redis_does(link: RedisLink, rate: float) -> None:
    rng, model, pace = Random(int(rate)), Timeline(), RedisSlots(link, answer_s=5.0)
    granted = 0
    for _ in range(120):
        queue: Queue = rng.choice(("express", "normal"))
        wish = ask(rng.randint(1, 40), rate, queue, rng.choice((1, 1, 1, 2, 5)))
        wish = wish._replace(uncertain_s=rng.choice((0.0, 0.1)), horizon_s=rng.choice((0.0, 0.2)))
        model.state = await state(link)
        wide = await link.call("GET", rate_wide_key("p"))
        model.wide = struct.unpack(">ddd", wide) if wide else (0, 0.0, 0.0)
        earliest, slots, latest = await timed(link, pace, wish)
        if model.state is None:
            continue
        if slots.segments:
            granted += 1
            after = await state(link)
            assert after is not None
            segments, delay_us = model.reserve(wish, after.seen)
            assert segments == slots.segments
            assert abs(delay_us - slots.delay_us) <= 2
            assert same(model.state, after)
        else:
            # The time at which it was refused is not told, but lies between these two.
            at_first, at_last = (model.reserve(wish, now) for now in (earliest, latest))
            assert at_first[0] == 0
            assert slots.delay_us <= at_first[1]
            assert at_last[0] > 0 or slots.delay_us >= at_last[1]
        if rng.random() < 0.3:
            await asyncio.sleep(rng.choice((0.001, 0.01, 0.05)))
    assert granted > 3


async def state(link: RedisLink) -> State | None:
    blob = await link.call("GET", rate_key("p"))
    if blob is None:
        return None
    runs = msgspec.msgpack.decode(blob[24:], type=list[float]) if blob[24:] else []
    log = [
        (first + n * step, int(size))
        for first, step, size, count in zip(*(runs[i::4] for i in range(4)), strict=True)
        for n in range(int(count))
    ]
    seen, tail, kept = struct.unpack(">ddd", blob[:24])
    return State(seen, tail, kept, tuple(log))


def same(one: State | None, other: State) -> bool:
    """Redis merges into runs what is a microsecond apart, or less."""
    return (
        one is not None
        and one[:3] == pytest.approx(other[:3], abs=0.5)
        and [size for _, size in one.log] == [size for _, size in other.log]
        and [moment for moment, _ in one.log] == pytest.approx([moment for moment, _ in other.log], abs=2)
    )


async def timed(link: RedisLink, pace: RedisSlots, wish: SlotRequest) -> tuple[int, Slots, int]:
    """An answer between two readings of the clock of Redis."""
    before, [slots], after = await asyncio.gather(link.call("TIME"), pace.reserve([wish]), link.call("TIME"))
    return int(before[0]) * 10**6 + int(before[1]), slots, int(after[0]) * 10**6 + int(after[1])


async def test_the_model_has_the_horizon_of_the_store() -> None:
    assert throughput_model.HORIZON_US == HORIZON_US


# -- processes


class Pacers:
    """Processes that pace against one key, and what they wrote down."""

    def __init__(self, url: str, directory: Path) -> None:
        self._url = url
        self._directory = directory
        self.processes: list[warm.Popen] = []
        self.queues: list[Queue] = []
        self._run = 0

    async def spawn(
        self, queue: str, rate: float, seconds: float, *, sizes: str = "1", wants: float = 0.0
    ) -> None:
        number = len(self.processes)
        process = warm.Popen(
            [
                sys.executable, "-m", "tests.stores.redis.throughput_process",
                self._url, "p", queue, str(rate), sizes, str(wants), str(seconds), str(self.file(number)),
            ],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
        )  # fmt: skip
        self.processes.append(process)
        self.queues.append(cast(Queue, queue))

    def file(self, number: int) -> Path:
        return self._directory / f"{self._run}.{number}.sent"

    async def begin(self) -> None:
        async with asyncio.timeout(60):
            for process in self.processes:
                assert process.stdout is not None
                assert await asyncio.to_thread(process.stdout.readline) == b"ready\n"
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(b"go\n")

    async def end(self) -> None:
        for process in self.processes:
            assert await asyncio.to_thread(process.wait, 60) in (0, -signal.SIGKILL)

    async def until_sent(self, number: int, segments: int) -> None:
        deadline = time.monotonic() + 60
        while len(self.sent_by(number)) < segments:
            assert time.monotonic() < deadline, f"process {number} does not send"
            await asyncio.sleep(0.01)

    def sent_by(self, number: int) -> list[Sent]:
        """A process killed while writing leaves part of a record at the end."""
        blob = self.file(number).read_bytes() if self.file(number).exists() else b""
        whole = len(blob) - len(blob) % RECORD.size
        return [Sent(at_s, segments, number) for at_s, segments in RECORD.iter_unpack(blob[:whole])]

    def sent(self, queue: Queue | None = None) -> list[Sent]:
        numbers = [n for n, q in enumerate(self.queues) if queue in (None, q)]
        return sorted(itertools.chain.from_iterable(map(self.sent_by, numbers)))

    async def clear(self) -> None:
        """End what still runs, and begin another run."""
        for process in self.processes:
            if process.returncode is None:
                process.kill()
            process.communicate()
        self.processes, self.queues = [], []
        self._run += 1


@pytest.fixture
async def pacers(link: RedisLink, url: str, tmp_path: Path) -> AsyncIterator[Pacers]:
    pacers = Pacers(url, tmp_path)
    yield pacers
    await pacers.clear()


def best_rate(sent: Sequence[Sent], stretch_s: float = 1.5) -> float:
    """Segments a second in the best stretch of about that length."""
    total = sum(s.segments for s in sent)
    span_s = sent[-1].at_s - sent[0].at_s
    count = min(len(sent) - 1, max(1, int(len(sent) * stretch_s / span_s)))
    assert total
    sums = [0, *itertools.accumulate(s.segments for s in sent)]
    return max(
        (sums[i + count] - sums[i]) / (sent[i + count].at_s - sent[i].at_s) for i in range(len(sent) - count)
    )


async def well_run(
    pacers: Pacers,
    rate: float,
    start: Callable[[], Awaitable[None]],
    meanwhile: Callable[[], Awaitable[None]] | None = None,
    stretch_s: float = 1.5,
) -> None:
    """A run in which the limit was used. That it was kept is asserted of all before it, too."""
    for _ in range(RUNS_MAX):
        await pacers.clear()
        await start()
        await pacers.begin()
        if meanwhile is not None:
            await meanwhile()
        await pacers.end()
        assert most_in(pacers.sent(), 1.0) <= 1.05 * rate
        if best_rate(pacers.sent(), stretch_s) >= 0.95 * rate:
            return
    pytest.fail(f"the limit was not used in any of {RUNS_MAX} runs")


@pytest.mark.parametrize(
    ("rate", "processes", "sizes"), [(10.0, 3, "1"), (100.0, 3, "1,3"), (300.0, 4, "1"), (5000.0, 3, "1")]
)
async def test_processes_together_use_the_limit_and_keep_it(
    pacers: Pacers, rate: float, processes: int, sizes: str
) -> None:
    async def start() -> None:
        for _ in range(processes):
            await pacers.spawn("normal", rate, 3.0, sizes=sizes)

    await well_run(pacers, rate, start)
    assert all(pacers.sent_by(n) for n in range(processes))


async def test_killed_and_frozen_processes_break_nothing(pacers: Pacers) -> None:
    rate, woken_s = 1000.0, 0.0

    async def start() -> None:
        for _ in range(4):
            await pacers.spawn("normal", rate, 4.0)

    async def kill_and_freeze() -> None:
        nonlocal woken_s
        await pacers.until_sent(0, 50)
        await pacers.until_sent(1, 50)
        pacers.processes[0].kill()
        os.kill(pacers.processes[1].pid, signal.SIGSTOP)
        # Longer than any slot is good for.
        await asyncio.sleep(0.6)
        woken_s = time.monotonic()
        os.kill(pacers.processes[1].pid, signal.SIGCONT)

    await well_run(pacers, rate, start, kill_and_freeze)
    assert any(s.at_s > woken_s for s in pacers.sent_by(1)), "it never came back"
    assert not any(s.at_s > woken_s for s in pacers.sent_by(0)), "it was not killed"


async def test_emptied_in_full_swing_redis_lets_nothing_through_twice(
    pacers: Pacers, link: RedisLink
) -> None:
    async def start() -> None:
        for _ in range(3):
            await pacers.spawn("normal", 1000.0, 3.0)

    async def empty() -> None:
        for times in range(3):
            await pacers.until_sent(0, 100 + 50 * times)
            await link.call("FLUSHDB")

    await well_run(pacers, 1000.0, start, empty, stretch_s=1.0)


@pytest.mark.parametrize("rate", [50.0, 2000.0])
async def test_express_has_its_share_however_many_want_the_rest(pacers: Pacers, rate: float) -> None:
    async def start() -> None:
        for queue in ("express", "normal", "normal", "normal"):
            await pacers.spawn(queue, rate, 2.5)

    await well_run(pacers, rate, start)
    assert best_rate(pacers.sent("express")) >= 0.95 * 0.2 * rate
    assert best_rate(pacers.sent("normal")) > 0.2 * rate


@pytest.mark.parametrize("wanted", [0.0, 0.05])
async def test_normal_has_what_express_does_not_want(pacers: Pacers, wanted: float) -> None:
    rate = 2000.0

    async def start() -> None:
        if wanted:
            await pacers.spawn("express", rate, 2.5, wants=wanted * rate)
        for _ in range(2):
            await pacers.spawn("normal", rate, 2.5)

    await well_run(pacers, rate, start)
    assert best_rate(pacers.sent("normal")) >= 0.95 * (1 - wanted) * rate
    if wanted:
        # More than it wants in a stretch, where it was starved of CPU before.
        assert best_rate(pacers.sent("express")) >= 0.9 * wanted * rate
