"""Whether what accepting a message needs can be reached, asked by anybody at any rate.

One look at the parts at a time, whoever asks meanwhile waits for its answer; and an answer is good
for a second. So a flood of questions costs the stores one small command each second.

Under failure. A part that does not answer: what is asked meanwhile waits until that part's own
deadline, which its adapter keeps. Whoever gives up waiting takes the answer from nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from engine.errors import EngineError

_GOOD_S = 1.0


class Readiness:
    """One per process, on its loop."""

    def __init__(
        self, probes: Mapping[str, Callable[[], Awaitable[object]]], clock_s: Callable[[], float]
    ) -> None:
        """`probes`: by part, a call that raises an EngineError when the part cannot be reached."""
        self._probes = probes
        self._clock_s = clock_s
        self._parts: dict[str, str] = {}
        self._good_until_s = float("-inf")
        self._look: asyncio.Task[None] | None = None

    async def parts(self) -> dict[str, str]:
        """Each part, and "ok" or what is wrong with it."""
        if self._clock_s() >= self._good_until_s:
            if self._look is None or self._look.done():
                self._look = asyncio.create_task(self._look_at_all(), name="readiness")
            await asyncio.shield(self._look)
        return self._parts

    async def _look_at_all(self) -> None:
        states = await asyncio.gather(*(_state(probe()) for probe in self._probes.values()))
        self._parts = dict(zip(self._probes, states, strict=True))
        self._good_until_s = self._clock_s() + _GOOD_S


async def _state(probe: Awaitable[object]) -> str:
    try:
        await probe
    except EngineError as e:
        return str(e)
    return "ok"
