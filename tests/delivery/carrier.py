"""A provider that answers from within the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from engine.providers.ports import Done
from engine.records import Message, Verdict, VerdictKind


class Carrier:
    """A provider in this process: answers when told to, or after `latency_s`."""

    def __init__(
        self, name: str = "carrier", answer: Callable[[Message], VerdictKind] = lambda _: "accepted"
    ) -> None:
        self.name = name
        self.latency_s: float | None = 0.0
        self.answer = answer
        self.submitted: list[Message] = []
        self.in_flight_max = 0
        self._open: list[tuple[Message, Done]] = []

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    @property
    def in_flight(self) -> int:
        return len(self._open)

    def flies(self, count: int) -> bool:
        return self.in_flight == count

    def submit(self, message: Message, done: Done) -> None:
        self.submitted.append(message)
        call = (message, done)
        self._open.append(call)
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        if self.latency_s is not None:
            asyncio.get_running_loop().call_later(self.latency_s, self._finish, call)

    def finish(self, count: int) -> None:
        """Answer the `count` that wait longest."""
        for call in self._open[:count]:
            self._finish(call)

    def _finish(self, call: tuple[Message, Done]) -> None:
        self._open.remove(call)
        message, done = call
        done(Verdict(kind=self.answer(message), provider=self.name, provider_message_id=f"c-{message.id}"))
