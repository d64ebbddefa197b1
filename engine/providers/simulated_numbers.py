"""Test numbers: what is sent to them is answered here, and never reaches a provider.

A message to one of them goes the whole way: it is priced, held, queued, routed, and given to the provider of
its route. In front of that stands this module. It answers in the provider's place, so the message is charged
and has its history as any other, with the code `test`. Its receipt follows as if the provider had sent it.

The numbers are of a range that Ofcom sets aside for drama (+44 7700 900000 to 900999), so nobody has them.

    killed before the receipt   it never comes, as with a provider that loses one
    stopped before it           it is given at once, so that a reload loses none
    the receipts cannot be kept they are given again, until they are
    frozen                      the receipts come later
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from engine.clocks.store_clock import wall_us
from engine.providers.ports import BatchProvider, Done, Provider, Verdicts
from engine.receipts.ports import ReceiptSink
from engine.receipts.records import Receipt
from engine.records import Message, Verdict

# Receipts that could not be kept are given again after this time, seconds.
_AGAIN_S = 1.0
_CODE = "test"


class Outcome(NamedTuple):
    """What becomes of a message to one of the numbers."""

    # Whether the provider takes it.
    accepted: bool = True
    delivered: bool = False
    # The state in the receipt, as providers write it.
    state: str = ""
    # When the receipt comes after the message was taken, seconds.
    after_s: float = 0.2


OUTCOMES = {
    "+447700900901": Outcome(delivered=True, state="DELIVRD"),
    "+447700900902": Outcome(state="UNDELIV"),
    "+447700900903": Outcome(accepted=False),
    "+447700900904": Outcome(state="EXPIRED"),
    "+447700900905": Outcome(delivered=True, state="DELIVRD", after_s=30.0),
}
_NUMBERS = frozenset(OUTCOMES)


class SimulatedNumbers:
    """A provider that keeps messages to the test numbers from the one behind it."""

    def __init__(self, inner: Provider, receipts: ReceiptSink, now_us: Callable[[], int] = wall_us) -> None:
        """`inner` has all other messages. The receipts go to `receipts`."""
        self.inner = inner
        self._receipts = receipts
        self._now_us = now_us
        # The receipts that are to come, each with what waits for its time.
        self._waiting: dict[str, tuple[asyncio.TimerHandle, Receipt]] = {}

    @property
    def name(self) -> str:
        """The name of the provider behind it."""
        return self.inner.name

    async def start(self) -> None:
        """See the port."""
        await self.inner.start()

    async def stop(self) -> None:
        """See the port. Receipts that are to come are given now."""
        for message_id, (timer, _) in list(self._waiting.items()):
            timer.cancel()
            self._give(message_id)
        await self.inner.stop()

    def submit(self, message: Message, done: Done) -> None:
        """See the port."""
        if message.to in _NUMBERS:
            self._answer(message, done)
        else:
            self.inner.submit(message, done)

    def _answer(self, message: Message, done: Done) -> None:
        outcome, loop = OUTCOMES[message.to], asyncio.get_running_loop()
        provider_message_id = f"test-{message.id}" if outcome.accepted else ""
        verdict = Verdict(
            kind="accepted" if outcome.accepted else "permanent",
            provider=self.name,
            provider_message_id=provider_message_id,
            code=_CODE,
            is_test=True,
        )
        loop.call_soon(done, verdict)
        if outcome.accepted:
            receipt = Receipt(
                provider=self.name,
                provider_message_id=provider_message_id,
                state="delivered" if outcome.delivered else "undelivered",
                code=f"{outcome.state} {_CODE}",
                at_us=0,
                to=message.to[1:],
                message_id=message.id,
            )
            self._wait(message.id, receipt, outcome.after_s)

    def _wait(self, message_id: str, receipt: Receipt, after_s: float) -> None:
        timer = asyncio.get_running_loop().call_later(after_s, self._give, message_id)
        self._waiting[message_id] = timer, receipt

    def _give(self, message_id: str) -> None:
        _, receipt = self._waiting.pop(message_id)

        def stored(kept: bool) -> None:
            if not kept:
                self._wait(message_id, receipt, _AGAIN_S)

        dated = msgspec.structs.replace(receipt, at_us=self._now_us())
        self._receipts.put((dated,), stored)


class SimulatedNumbersTogether(SimulatedNumbers):
    """The same in front of a provider that takes many messages in one call."""

    def __init__(
        self, inner: BatchProvider, receipts: ReceiptSink, now_us: Callable[[], int] = wall_us
    ) -> None:
        super().__init__(inner, receipts, now_us)
        self._submit_all = inner.submit_all

    def submit_all(self, messages: Sequence[Message], first: int, verdicts: Verdicts) -> None:
        """See `engine.providers.ports.BatchProvider`."""
        if _NUMBERS.isdisjoint([message.to for message in messages]):
            self._submit_all(messages, first, verdicts)
            return
        for token, message in enumerate(messages, first):
            if message.to in _NUMBERS:
                self._answer(message, partial(verdicts.ended, token))
            else:
                self._submit_all((message,), token, verdicts)


def with_simulated_numbers(
    provider: Provider, receipts: ReceiptSink, now_us: Callable[[], int] = wall_us
) -> Provider:
    """The provider without the messages to test numbers, whose receipts go to `receipts`."""
    if isinstance(provider, BatchProvider):
        return SimulatedNumbersTogether(provider, receipts, now_us)
    return SimulatedNumbers(provider, receipts, now_us)
