"""When to try again, and what a late clock does."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from engine.providers.pacing import PAUSE_S, PAUSE_S_MAX, Backoff, Ticker


def test_pauses_double_up_to_the_bound_and_end_with_success() -> None:
    backoff = Backoff()
    now_s, pauses = 1000.0, []
    for _ in range(12):
        assert not backoff.holds(now_s)
        backoff.failed(now_s, "refused", jitter=1.0)
        pause_s = next(ms / 1000 for ms in range(10_000) if not backoff.holds(now_s + ms / 1000))
        pauses.append(pause_s)
        now_s += pause_s
    assert pauses[:4] == pytest.approx([PAUSE_S, 2 * PAUSE_S, 4 * PAUSE_S, 8 * PAUSE_S], abs=0.002)
    assert pauses[-1] == pytest.approx(PAUSE_S_MAX, abs=0.002)
    backoff.succeeded()
    assert not backoff.holds(now_s)


def test_attempts_that_fail_together_count_once() -> None:
    backoff = Backoff()
    for _ in range(32):
        backoff.failed(1000.0, "refused", jitter=0.0)
    assert backoff.failures == 1
    assert not backoff.holds(1000.0 + PAUSE_S / 2)


@pytest.mark.asyncio(loop_scope="module")
async def test_after_a_freeze_the_loop_reads_before_the_tick() -> None:
    """A call that blocks the loop stands for a process that was stopped."""
    order: list[str] = []
    ticked = asyncio.Event()

    class Reader(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            order.append("read")

    def tick() -> None:
        order.append("tick")
        ticked.set()

    ours, theirs = socket.socketpair()
    with theirs:
        transport, _ = await asyncio.get_running_loop().create_connection(Reader, sock=ours)
        ticker = Ticker(0.02, tick)
        ticker.start()
        theirs.send(b"x")
        time.sleep(0.1)  # noqa: ASYNC251 - the freeze
        await asyncio.wait_for(ticked.wait(), 5)
        ticker.stop()
        transport.close()
    assert order[:2] == ["read", "tick"]
