"""The intake behind the API under test: the engine's own, on a credit desk that is the test's."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

from engine._fastcredits import CreditMap
from engine.config import Queues
from engine.credit.awaiting import Done
from engine.credit.group_commit import Admission
from engine.credit.memory_mark import MemoryMark
from engine.errors import Refusal
from engine.ids import MessageIds
from engine.intake.ingest import Ingest
from engine.intake.pricing import PriceTable
from engine.limits.gate import Gate
from engine.records import Accepted, Replay, Submission

UNITS = 1 << 40


class CreditDesk:
    """In place of `credit.quota.Quota`: quota enough, and each submission is admitted at once."""

    def __init__(self) -> None:
        self.memory = MemoryMark()
        self.incarnation = 0
        self.credit = CreditMap()
        self.admitted: list[Submission] = []
        self._by_key: dict[str, Replay] = {}

    def check(self) -> None:
        """It takes everything."""

    def admit(self, submission: Submission, incarnation: int, done: Done) -> Admission:
        known = self._by_key.get(submission.idempotency_key)
        if known is None:
            self.admitted.append(submission)
            if submission.idempotency_key:
                replay = Replay(fingerprint=submission.fingerprint, answer=submission.answer)
                self._by_key[submission.idempotency_key] = replay
        asyncio.get_running_loop().call_soon(done, known)
        return Admission(0, 0)

    def release(self, organisation_id: int, units: int, incarnation: int) -> None:
        if units:
            self.credit.release(organisation_id, units)

    async def wait(self, organisation_id: int, enough: int, wanted: int) -> bool:
        self.credit.grant(organisation_id, UNITS)
        return True

    def taken(self) -> dict[str, int]:
        """Units by id of the messages that were admitted since the last call; as many are held."""
        found = {a.message.id: a.message.units for s in self.admitted for a in s.messages}
        sums = [sum(a.message.units for a in s.messages) for s in self.admitted]
        assert [s.units for s in self.admitted] == sums, (
            "the units of a submission are not those of its messages"
        )
        self.admitted.clear()
        self._by_key.clear()
        return found


def ingest(desk: CreditDesk) -> Ingest:
    return Ingest(
        desk,  # type: ignore[arg-type]  # what Ingest calls of a Quota
        PriceTable({"": 1, "+98": 3}),
        Queues().validities_s(),
        MessageIds(random.getrandbits(26), random.getrandbits(48)),
        now_us=lambda: time.time_ns() // 1000,
        timeout_s=5.0,
        gate=Gate(clock_s=time.monotonic),
    )


def units_of(outcomes: Sequence[Accepted | Refusal]) -> dict[str, int]:
    """Units by id of those that were accepted."""
    return {o.id: o.units for o in outcomes if isinstance(o, Accepted)}
