"""A sink that remembers the receipts a provider gave it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from engine.receipts.records import Receipt


class Sink:
    """See `engine.receipts.ports.ReceiptSink`; `keeps` False is a Redis that is away."""

    def __init__(self) -> None:
        self.receipts: list[Receipt] = []
        self.keeps = True
        self.arrived = asyncio.Event()

    def put(self, receipts: Sequence[Receipt], stored: Callable[[bool], None]) -> None:
        if self.keeps:
            self.receipts.extend(receipts)
        asyncio.get_running_loop().call_soon(stored, self.keeps)
        self.arrived.set()
