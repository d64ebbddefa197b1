"""Which of the stores answer, asked by anybody at any rate.

One look at the parts at a time, whoever asks meanwhile waits for its answer; and an answer is good
for a second. So a flood of questions costs the stores one small command each second.

Under failure. A part that does not answer within `_ANSWER_S` is away. Whoever gives up waiting takes
the answer from nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from engine.errors import EngineError

_GOOD_S = 1.0
# A part that has not answered by then is away, seconds.
_ANSWER_S = 1.0


class Readiness:
    """One per process, on its loop."""

    def __init__(
        self,
        probes: Mapping[str, Callable[[], Coroutine[Any, Any, object]]],
        clock_s: Callable[[], float],
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
        states = await asyncio.gather(*(_state(*probe) for probe in self._probes.items()))
        self._parts = dict(zip(self._probes, states, strict=True))
        self._good_until_s = self._clock_s() + _GOOD_S


async def _state(name: str, probe: Callable[[], Coroutine[Any, Any, object]]) -> str:
    asking = asyncio.create_task(probe(), name=f"readiness {name}")
    # Not `asyncio.timeout`: what asks a frozen store may need as long again to be canceled.
    done, _ = await asyncio.wait([asking], timeout=_ANSWER_S)
    if not done:
        asking.cancel()
        asking.add_done_callback(lambda late: late.cancelled() or late.exception())
        return f"no answer within {_ANSWER_S:g} s"
    try:
        await asking
    except EngineError as e:
        return str(e)
    return "ok"
