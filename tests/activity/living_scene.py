"""Processes of one kind that live beside each other, killed, frozen and drained at any step by chance."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Generic, TypeVar

from engine.clocks.waits import happens
from tests.activity.living import Living
from tests.activity.world import until

LIVING_MAX = 4
One = TypeVar("One", bound=Living)


class LivingScene(ABC, Generic[One]):
    """`living`: those that live. What they are to do comes by `load`, and `end` looks whether it was done."""

    def __init__(self, seed: int, points: Sequence[str], patience_s: float) -> None:
        """`points`: where one of them may be stopped. `patience_s`: how long one may take to get there."""
        self.rng = Random(seed)
        self.living: list[One] = []
        self._points, self._patience_s = points, patience_s
        self._begun = 0

    @abstractmethod
    def make(self, name: str, limits: Any) -> One:
        """One more, with limits of its own unless they are None."""

    @abstractmethod
    async def load(self) -> None:
        """Give them something to do."""

    @abstractmethod
    async def is_done(self) -> bool:
        """Whether all that there is to do was done."""

    @abstractmethod
    async def check(self) -> None:
        """Fail unless it was done once."""

    def begin(self, limits: Any = None) -> One:
        """One more lives."""
        self._begun += 1
        self.living.append(self.make(f"a{self._begun}", limits))
        return self.living[-1]

    async def drain(self, one: One) -> None:
        self.living.remove(one)
        await one.end()

    async def step(self) -> None:
        """One thing by chance happens to one of them."""
        if not self.living or (len(self.living) < LIVING_MAX and self.rng.random() < 0.4):
            self.begin()
            return
        one = self.rng.choice(self.living)
        what = self.rng.choice(("kill", "freeze", "freeze", "drain"))
        if one.stopped.is_set():
            (one.ask if self.rng.random() < 0.4 else one.go_on)()
            return
        one.point = self.rng.choice(self._points)
        await happens(one.stopped, self._patience_s)
        if what == "freeze":
            one.stop()
        elif what == "kill":
            self.living.remove(one)
            await one.die()
        else:
            await self.drain(one)

    @asynccontextmanager
    async def playing(self) -> AsyncIterator[None]:
        """While the block runs they live; then all go on, until all is done."""
        try:
            yield
            for one in self.living:
                one.go_on()
            self.begin()
            await until(self.is_done, 120.0)
            while self.living:
                await self.living.pop().end()
            await self.check()
        finally:
            for one in self.living:
                await one.die()
