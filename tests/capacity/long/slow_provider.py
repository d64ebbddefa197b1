"""A provider that answers after a while, and whose messages each cost their worker's loop a while of work."""

from __future__ import annotations

import asyncio
import time
from itertools import count
from typing import Any

from engine.providers.ports import Done
from engine.receipts.ports import ReceiptSink
from engine.records import Message, Verdict


class Slow:
    """Works for `busy_s` on each message, and accepts it `takes_s` later, seconds."""

    def __init__(self, name: str, busy_s: float, takes_s: float) -> None:
        self.name = name
        self._busy_s = busy_s
        self._takes_s = takes_s
        self._ids = count()

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def submit(self, message: Message, done: Done) -> None:
        """See `engine.providers.ports.Provider`."""
        end_s = time.perf_counter() + self._busy_s
        while time.perf_counter() < end_s:
            pass
        verdict = Verdict(kind="accepted", provider=self.name, provider_message_id=f"{next(self._ids)}")
        asyncio.get_running_loop().call_later(self._takes_s, done, verdict)


def provider(*, name: str, timeout_s: float, options: dict[str, Any], receipts: ReceiptSink) -> Slow:
    """See `engine.providers.custom`."""
    return Slow(name, options["busy_s"], options["takes_s"])
