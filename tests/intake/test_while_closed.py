"""While nothing new is taken, a request that repeats one that was accepted gets its answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from engine.api.messages import render_batch
from engine.errors import Closed, Refusal, TooMany, Unavailable, Undecided
from engine.ids import MessageIds
from engine.intake import kept_answer
from engine.intake.ingest import Ingest
from engine.intake.pricing import PriceTable
from engine.limits.gate import Gate
from engine.records import Accepted, MessageDraft, Replay

DRAFTS = [MessageDraft(to="+4915112345678", text="x")] * 2
ACCEPTED = [
    Accepted(id=name, status="accepted", queue="normal", segments=1, encoding="GSM-7", units=1)
    for name in MessageIds(1, 1).make(5, 2)
]
CLOSED = Closed("queue_drained", "The queue is being drained.", 30.0)
FULL = TooMany(
    "backlog_full", "Too many wait.", "backlog_max", quota=1, window_s=0, remaining=0, retry_after_s=1
)


def closed(_: Sequence[MessageDraft | Refusal]) -> None:
    raise CLOSED


class Ready:
    """A quota of a process that may spend."""

    def check(self) -> None:
        pass


class Over(Gate):
    """The gate of an organisation that is over a limit."""

    def enter(self, organisation_id: int, messages: int) -> float:
        raise FULL


def ingest(known: Replay | Exception | None, *, over: bool = False) -> Ingest:
    async def first(organisation_id: int, key: str) -> Replay | None:
        assert (organisation_id, key) == (7, "k")
        if isinstance(known, Exception):
            raise known
        return known

    quota: Any = Ready()
    gate = (Over if over else Gate)(clock_s=time.monotonic)
    check: dict[str, Any] = {} if over else {"check": closed}
    return Ingest(
        quota, PriceTable({"": 1}), {}, MessageIds(1, 1), now_us=lambda: 0, timeout_s=1, gate=gate,
        first=first, **check,
    )  # fmt: skip


async def ask(taker: Ingest, key: str = "k") -> Any:
    return await taker.submit(7, DRAFTS, render=render_batch, idempotency_key=key, fingerprint=b"f")


@pytest.mark.parametrize("over", [False, True])
async def test_a_repetition_gets_the_kept_answer(over: bool) -> None:
    kept = kept_answer.pack(ACCEPTED)
    submitted = await ask(ingest(Replay(fingerprint=b"f", answer=kept), over=over))
    assert (submitted.answer, submitted.replayed) == (render_batch(ACCEPTED), True)


@pytest.mark.parametrize("known", [None, Unavailable("Redis is away.")])
async def test_what_was_not_accepted_before_is_not_taken(known: Exception | None) -> None:
    with pytest.raises(Closed):
        await ask(ingest(known))
    with pytest.raises(Closed):
        await ask(ingest(known), key="")


async def test_a_key_of_another_request_is_refused() -> None:
    with pytest.raises(Refusal) as caught:
        await ask(ingest(Replay(fingerprint=b"g", answer=b"")))
    assert caught.value.code == "idempotency_key_reused"


async def test_over_a_limit_a_new_request_is_refused_and_one_that_nobody_knows_is_undecided() -> None:
    for taker, key in ((ingest(None, over=True), "k"), (ingest(None, over=True), "")):
        with pytest.raises(TooMany):
            await ask(taker, key)
    with pytest.raises(Undecided):
        await ask(ingest(Unavailable("Redis is away."), over=True))
