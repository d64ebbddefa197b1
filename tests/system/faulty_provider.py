"""A provider that accepts everything, and in the first worker that sends through it puts a fault into
the engine's own code: what acts on the verdict raises."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from engine.delivery.settler import Settler
from engine.providers.ports import Done
from engine.receipts.ports import ReceiptSink
from engine.records import Message, Verdict


class Faulty:
    """Accepts at once."""

    def __init__(self, name: str, marker: str) -> None:
        """`marker`: a file that the first who sends makes."""
        self.name = name
        self._marker = marker

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def submit(self, message: Message, done: Done) -> None:
        try:
            os.close(os.open(self._marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            pass
        else:
            Settler.sent = _fail  # type: ignore[method-assign, assignment]
        verdict = Verdict(kind="accepted", provider=self.name, provider_message_id=str(os.getpid()))
        asyncio.get_running_loop().call_soon(done, verdict)


def _fail(*_: Any, **__: Any) -> None:
    raise ZeroDivisionError("a fault put in on purpose")


def provider(*, name: str, timeout_s: float, options: dict[str, Any], receipts: ReceiptSink) -> Faulty:
    """See `engine.providers.custom`."""
    return Faulty(name, options["marker"])
