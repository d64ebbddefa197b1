"""Submits a second and core of the SMPP provider, compared with what the bare protocol can do.

    pytest benchmarks/micro/bench_provider_smpp.py -s

Three clients with a window of 100 on one session, against one SMSC that accepts everything
(`benchmarks.micro.smsc`) on the other core:

    bare      each submit_sm packed by hand from one message, a callback for each answer, one
              write for all that one read brought. It is the ceiling: it keeps no time, checks
              nothing and can send nothing but this message
    provider  `SmppProvider` as the worker uses it
    futures   as bare, but with a future, a task's turn and a write for each submit_sm

Rates are per second of this process's CPU. The rounds of the clients alternate, so that a slow
phase of the machine slows all of them. The fastest round of each counts, because other processes
disturbed it least. Set BENCH_REQUESTS for longer rounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from struct import Struct
from typing import cast

import pytest
import uvloop
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.micro.cores import spread
from engine.providers.problems import Problems
from engine.providers.settings import SmppSettings
from engine.providers.smpp.provider import SmppProvider
from engine.receipts.records import Receipt
from engine.records import Message, Verdict

SUBMITS = int(os.environ.get("BENCH_REQUESTS", "10000"))
WINDOW = 100
ROUNDS = 20

MESSAGE = Message(
    id="01930000-0000-7000-8000-000000000001", organisation_id=1, to="+989120000000", sender="Demo",
    text="Your code is 123456", encoding="GSM-7", segments=1, units=1, accepted_at_us=0,
    expires_at_us=int(time.time() + 3600) * 1_000_000,
)  # fmt: skip
_header = Struct(">IIII")
_BIND = _header.pack(28, 9, 0, 1) + b"bench\0\0\0\x34\0\0\0"
_SUBMIT_SM = 4

VALIDITY = b"000000010000000R"


def packed(sequence: int) -> bytes:
    """MESSAGE as a whole submit_sm, by hand."""
    text = MESSAGE.text.encode("ascii")
    body = b"\0\5\0%b\0\1\1%b\0\0\0\0\0%b\0\1\0\0\0%c%b" % (
        MESSAGE.sender.encode("ascii"), MESSAGE.to[1:].encode("ascii"), VALIDITY, len(text), text,
    )  # fmt: skip
    return _header.pack(16 + len(body), _SUBMIT_SM, 0, sequence) + body


Round = Callable[[int], Coroutine[None, None, None]]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of an SMSC that accepts everything, on another core than this process."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.micro.smsc"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as smsc:
        assert smsc.stdin
        assert smsc.stdout
        with spread(smsc.pid):
            yield int(smsc.stdout.readline())
        smsc.stdin.close()


class Bare(asyncio.Protocol):
    """Keeps WINDOW submits going."""

    def __init__(self) -> None:
        self._rest = b""
        self._sequence = 1
        self._pending: dict[int, Callable[[str], None]] = {}
        self._left = self._missing = 0
        self.bound = asyncio.get_running_loop().create_future()
        self.ended = self.bound

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Bind."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(_BIND)

    async def round_of(self, submits: int) -> None:
        """Send `submits` messages, WINDOW of them at once, and wait until all are answered."""
        self.ended = asyncio.get_running_loop().create_future()
        self._left, self._missing = submits - WINDOW, submits
        self.transport.write(b"".join([self._submit() for _ in range(WINDOW)]))
        await self.ended

    def data_received(self, data: bytes) -> None:
        """Call back for every answer, and write the submits that follow in one call."""
        data = self._rest + data
        at, end, out = 0, len(data), []
        unpack, pending = _header.unpack_from, self._pending
        while end - at >= 16:
            length, _, status, sequence = unpack(data, at)
            if end - at < length:
                break
            if done := pending.pop(sequence, None):
                assert status == 0
                done(data[at + 16 : at + length - 1].decode("latin-1"))
                if self._left:
                    self._left -= 1
                    out.append(self._submit())
            else:
                self.bound.set_result(None)
            at += length
        self._rest = data[at:]
        if out:
            self.transport.write(b"".join(out))

    def _submit(self) -> bytes:
        sequence = self._sequence = self._sequence + 1
        self._pending[sequence] = self._done
        return packed(sequence)

    def _done(self, message_id: str) -> None:
        self._missing -= 1
        if not self._missing:
            self.ended.set_result(None)


class Futures(Bare):
    """A future for each submit, awaited by WINDOW tasks, each with its own write."""

    def __init__(self) -> None:
        super().__init__()
        self._futures: dict[int, asyncio.Future[str]] = {}

    async def round_of(self, submits: int) -> None:
        """Send `submits` messages from WINDOW tasks, each of which waits for its last answer."""
        await asyncio.gather(*(self._one_after_another(submits // WINDOW) for _ in range(WINDOW)))

    async def _one_after_another(self, submits: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(submits):
            sequence = self._sequence = self._sequence + 1
            future = self._futures[sequence] = loop.create_future()
            self.transport.write(packed(sequence))
            await future

    def data_received(self, data: bytes) -> None:
        """Complete the future of every answer."""
        data = self._rest + data
        at, end = 0, len(data)
        while end - at >= 16:
            length, _, status, sequence = _header.unpack_from(data, at)
            if end - at < length:
                break
            if future := self._futures.pop(sequence, None):
                assert status == 0
                future.set_result(data[at + 16 : at + length - 1].decode("latin-1"))
            else:
                self.bound.set_result(None)
            at += length
        self._rest = data[at:]


@contextlib.asynccontextmanager
async def _protocol(made: Callable[[], Bare], port: int) -> AsyncIterator[Round]:
    _, protocol = await asyncio.get_running_loop().create_connection(made, "127.0.0.1", port)
    await protocol.bound
    yield protocol.round_of
    protocol.transport.close()


class _NoReceipts:
    def put(self, receipts: Sequence[Receipt], stored: Callable[[bool], None]) -> None:
        raise AssertionError


@contextlib.asynccontextmanager
async def _provider(port: int) -> AsyncIterator[Round]:
    settings = SmppSettings(name="bench", host="127.0.0.1", port=port, system_id="bench", window=WINDOW)
    provider = SmppProvider(settings, _NoReceipts(), Problems())
    await provider.start()

    async def round_of(submits: int) -> None:
        ended = asyncio.get_running_loop().create_future()
        left, missing = submits - WINDOW, submits

        def done(verdict: Verdict) -> None:
            nonlocal left, missing
            assert verdict.kind == "accepted"
            missing -= 1
            if left:
                left -= 1
                provider.submit(MESSAGE, done)
            elif not missing:
                ended.set_result(None)

        for _ in range(WINDOW):
            provider.submit(MESSAGE, done)
        await ended

    yield round_of
    await provider.stop()


CLIENTS: dict[str, Callable[[int], contextlib.AbstractAsyncContextManager[Round]]] = {
    "bare": lambda port: _protocol(Bare, port),
    "provider": _provider,
    "futures": lambda port: _protocol(Futures, port),
}


@pytest.mark.parametrize("client", CLIENTS)
def test_submit(client: str, port: int, benchmark: BenchmarkFixture) -> None:
    """Wall time of SUBMITS submits, WINDOW at once."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        connecting = CLIENTS[client](port)
        round_of = runner.run(connecting.__aenter__())
        runner.run(round_of(SUBMITS // 10))
        benchmark.pedantic(lambda: runner.run(round_of(SUBMITS)), rounds=3)  # type: ignore[no-untyped-call]
        benchmark.extra_info["submits"] = SUBMITS
        runner.run(connecting.__aexit__(None, None, None))


def test_half_of_the_bare_protocol_and_twice_the_futures(port: int) -> None:
    async def compare() -> dict[str, list[float]]:
        rates: dict[str, list[float]] = {name: [] for name in CLIENTS}
        for turn in range(ROUNDS + 1):
            for name, connected in CLIENTS.items():
                async with connected(port) as round_of:
                    await round_of(WINDOW * 10)
                    begun_s = time.process_time()
                    await round_of(SUBMITS)
                    if turn:  # the first turn warms up
                        rates[name].append(SUBMITS / (time.process_time() - begun_s))
        return rates

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rates = runner.run(compare())
    print()
    for name, values in rates.items():
        median, fastest = statistics.median(values) / 1000, max(values) / 1000
        print(f"{name:9} {fastest:5.0f} thousand submits a second of CPU (median {median:.0f})")
    ratios = {other: max(rates["provider"]) / max(rates[other]) for other in ("bare", "futures")}
    for other, ratio in ratios.items():
        print(f"provider / {other}: {ratio:.2f}")
    assert ratios["bare"] >= 0.5
    assert ratios["futures"] >= 2
