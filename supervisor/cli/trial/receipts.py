"""The receipt of a trial's message: which one it is, and where it is waited for.

Over SMPP it comes on the session of the trial. Receipts of the engine's own messages may come there too,
since a provider sends them on any session of a system_id. Those are refused with ESME_RX_T_APPN (`not now`),
so the provider sends them again, to the engine. Killed meanwhile: they are not answered, and so sent again.

Over HTTP the provider pushes it to the API of the running engine, and over SMPP it may send it on a session
of the engine's. There no attempt has its id, so it waits in Redis to be looked up again; it is looked for
there, and nothing is changed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from engine.activity.numbers import numbers_agree
from engine.activity.records import AttemptRecord
from engine.receipts.ids import IdForms, ids_of, likeliest, normal
from engine.receipts.match import Match, Reason, match
from engine.receipts.records import Receipt
from engine.records import Message, Verdict
from engine.stores.redis.link import RedisLink
from engine.stores.redis.receipt_stream import unmatched_receipts
from supervisor.cli.trial.steps import Steps

_POLL_S = 0.5
# A receipt may have come so long before it is looked for, microseconds.
_EARLY_US = 5_000_000


_REASONS: dict[Reason, str] = {
    "unknown": "its id meets none that was given: see `receipt_ids`",
    "recipient": "its id is the one given, but it has another number",
    "ambiguous": "it may mean several messages",
}


class Awaited:
    """The receipts that may come for the message of a trial, matched as the engine matches them."""

    def __init__(self, message: Message, how: IdForms, steps: Steps) -> None:
        self._message = message
        self._how = how
        self._steps = steps
        self._attempt: AttemptRecord | None = None
        self._shown: set[tuple[str, str]] = set()
        # The segments of which it is known how they ended.
        self._segments: set[int] = set()
        # Set when it is known how the message ended; `met` is true with any receipt of it.
        self.ended = asyncio.Event()
        self.met = False

    def know(self, verdict: Verdict) -> None:
        """The provider took the message, under the ids in the verdict."""
        message = self._message
        self._attempt = AttemptRecord(
            event="sent",
            message_id=message.id,
            attempt=1,
            code=verdict.code,
            at_us=message.accepted_at_us,
            provider=verdict.provider,
            provider_message_id=verdict.provider_message_id,
            # Any but 0, which means: no attempt.
            organisation_id=1,
            to=message.to,
        )

    def take(self, receipt: Receipt, where: str = "") -> bool:
        """Whether it is about the message. Shows it, once, when it is, or when its number or id is.

        `where`: at what place it was found; "" on the session of the trial.
        """
        attempt = self._attempt
        if attempt is None:
            return False
        found = match(receipt, [attempt], self._how, settled=True)
        ours = isinstance(found, Match)
        key = receipt.provider_message_id, receipt.code
        if key not in self._shown and (ours or found == "recipient" or self._same_number(receipt)):
            self._shown.add(key)
            words = how_it_meets(attempt, receipt, self._how) if isinstance(found, Match) else _REASONS[found]
            self._steps.add("receipt", receipt.state, where + words, fields=_fields(receipt, attempt))
        if isinstance(found, Match):
            self.met = True
            if receipt.state != "pending":
                self._segments.add(found.segment)
            several = len(ids_of(attempt.provider_message_id, attempt.message_id))
            if receipt.state == "undelivered" or 0 in self._segments or len(self._segments) == several:
                self.ended.set()
        return ours

    def _same_number(self, receipt: Receipt) -> bool:
        return bool(numbers_agree(receipt.to, self._message.to))


class TrialSink:
    """See `engine.receipts.ports.ReceiptSink`: keeps the receipt of the trial, and refuses all others."""

    def __init__(self, awaited: Awaited) -> None:
        self._awaited = awaited
        self._known = False
        # Receipts may come before the answer that has the id.
        self._early: list[tuple[Sequence[Receipt], Callable[[bool], None]]] = []
        self.refused = 0

    def put(self, receipts: Sequence[Receipt], stored: Callable[[bool], None]) -> None:
        """See the port."""
        if self._known:
            asyncio.get_running_loop().call_soon(self._judge, receipts, stored)
        else:
            self._early.append((receipts, stored))

    def judge(self) -> None:
        """The verdict is there, and with it the id: answer what has come so far."""
        self._known = True
        early, self._early = self._early, []
        for receipts, stored in early:
            self._judge(receipts, stored)

    def _judge(self, receipts: Sequence[Receipt], stored: Callable[[bool], None]) -> None:
        ours = [self._awaited.take(receipt) for receipt in receipts]
        self.refused += ours.count(False)
        # They are answered together.
        stored(all(ours))


async def look_for(awaited: Awaited, provider: str, link: RedisLink, shards: int) -> None:
    """Look into Redis again and again until the receipt is there. Raises Unavailable.

    What came there before this call is passed over.
    """
    since_us = time.time_ns() // 1000 - _EARLY_US
    while not awaited.ended.is_set():
        for receipt in await unmatched_receipts(link, shards):
            if receipt.provider == provider and receipt.at_us >= since_us:
                awaited.take(receipt, "came to the engine: ")
        await asyncio.sleep(_POLL_S)


def how_it_meets(attempt: AttemptRecord, receipt: Receipt, how: IdForms) -> str:
    """Why a receipt that is about the attempt is: by which form of which id."""
    given = attempt.provider_message_id or attempt.message_id
    ids, theirs = ids_of(attempt.provider_message_id, attempt.message_id), receipt.provider_message_id
    if theirs in given.split(","):
        return "it meets the message: its id is the one given"
    if normal(theirs) in ids:
        return "it meets the message: its id is the one given, but for capitals and zeros in front"
    bases: tuple[IdForms, ...] = ("hex-to-decimal", "decimal-to-hex")
    for base in bases:
        if likeliest(theirs, base) in ids:
            advice = f'; set receipt_ids = "{base}"' if how == "auto" else ""
            return f"it meets the message: its id is the one given in another base ({base}){advice}"
    return "it meets the message: it has the engine's own id"


def _fields(receipt: Receipt, attempt: AttemptRecord) -> dict[str, str]:
    return {
        "id": receipt.provider_message_id,
        "id given": attempt.provider_message_id or f"none; the engine's own is {attempt.message_id}",
        "state and code": receipt.code,
        "number": receipt.to or "none",
        **({"engine's own id": receipt.message_id} if receipt.message_id else {}),
    }
