"""What is sent to a test number is answered in its provider's place, and never reaches that."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from engine.intake.phone_numbers import e164
from engine.providers import simulated_numbers
from engine.providers.ports import BatchProvider, Done, Verdicts
from engine.providers.simulated_numbers import OUTCOMES, with_simulated_numbers
from engine.records import Message, Verdict
from tests.providers.sink import Sink

PLAIN = "+4915112345678"
QUICK = [number for number, outcome in OUTCOMES.items() if outcome.after_s < 1]


def message(to: str, number: int = 0) -> Message:
    return Message(
        id=f"0190a0b0-0000-7000-8000-{number:012}", organisation_id=1, to=to, text="hello", sender="",
        encoding="GSM-7", segments=1, units=1, accepted_at_us=1, expires_at_us=1 << 60,
    )  # fmt: skip


class One:
    """A provider that accepts everything."""

    name = "one"

    def __init__(self) -> None:
        self.sent: list[Message] = []

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def submit(self, message: Message, done: Done) -> None:
        self.sent.append(message)
        verdict = Verdict(kind="accepted", provider=self.name, provider_message_id=message.id[-3:], code="0")
        asyncio.get_running_loop().call_soon(done, verdict)


class Together(One):
    def submit_all(self, messages: Sequence[Message], first: int, verdicts: Verdicts) -> None:
        for token, message in enumerate(messages, first):
            self.submit(message, lambda verdict, token=token: verdicts.ended(token, verdict))  # type: ignore[misc]


class Notes:
    def __init__(self) -> None:
        self.verdicts: dict[int, Verdict] = {}

    def ended(self, token: int, verdict: Verdict) -> None:
        assert token not in self.verdicts
        self.verdicts[token] = verdict

    def accepted(self, *_: Any) -> None:
        raise AssertionError("not here")


def test_every_test_number_is_one_that_messages_can_be_sent_to() -> None:
    assert [e164(number) for number in OUTCOMES] == list(OUTCOMES)


@pytest.mark.parametrize("inner", [One, Together])
async def test_a_test_number_has_its_outcome_and_the_others_go_to_the_provider(inner: type[One]) -> None:
    sink, behind = Sink(), inner()
    provider, notes = with_simulated_numbers(behind, sink, lambda: 77), Notes()
    assert isinstance(provider, BatchProvider) == (inner is Together)
    messages = [message(to, n) for n, to in enumerate([PLAIN, *QUICK, PLAIN, PLAIN])]
    if isinstance(provider, BatchProvider):
        provider.submit_all(messages, 5, notes)
    else:
        for token, one in enumerate(messages, 5):
            provider.submit(one, lambda verdict, token=token: notes.ended(token, verdict))  # type: ignore[misc]
    assert not notes.verdicts, "never from inside the call"
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert {m.to for m in behind.sent} == {PLAIN}
    assert sorted(notes.verdicts) == list(range(5, 5 + len(messages)))
    for token, one in enumerate(messages, 5):
        verdict = notes.verdicts[token]
        if one.to in OUTCOMES:
            wanted = "accepted" if OUTCOMES[one.to].accepted else "permanent"
            assert (verdict.kind, verdict.provider, verdict.code) == (wanted, "one", "test")
    while len(sink.receipts) < 3:
        sink.arrived.clear()
        await asyncio.wait_for(sink.arrived.wait(), 60)
    found = {(r.to, r.state, r.code, r.at_us) for r in sink.receipts}
    assert found == {
        ("447700900901", "delivered", "DELIVRD test", 77),
        ("447700900902", "undelivered", "UNDELIV test", 77),
        ("447700900904", "undelivered", "EXPIRED test", 77),
    }
    assert {r.message_id for r in sink.receipts} < {m.id for m in messages}


async def test_a_receipt_that_is_to_come_is_given_when_the_provider_stops_and_again_until_it_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(simulated_numbers, "_AGAIN_S", 0.001)
    sink = Sink()
    provider = with_simulated_numbers(One(), sink)
    sink.keeps = False
    provider.submit(message("+447700900905"), lambda verdict: None)
    await provider.stop()
    await asyncio.wait_for(sink.arrived.wait(), 60)
    assert sink.receipts == []
    sink.keeps = True
    while not sink.receipts:
        sink.arrived.clear()
        await asyncio.wait_for(sink.arrived.wait(), 60)
    assert [r.state for r in sink.receipts] == ["delivered"]
