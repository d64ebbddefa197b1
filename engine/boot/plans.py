"""Plans of capacity for the admin call: made by a process of its own, so that no other call waits for one.

the process is killed, or fails      the call is 503, and may be made again
it takes longer than `PLAN_S`        it is killed; the same
the caller hangs up                  it is killed
this process is killed               it ends by itself, within seconds, and nobody gets its answer
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from engine import text_file
from engine.capacity import costs as costs_of
from engine.capacity.costs import Costs
from engine.capacity.plan_answer import PlanAnswer
from engine.capacity.traffic import Traffic
from engine.capacity.wish import PlanRefused, PlanRequest, PlanWish
from engine.config import Config
from engine.errors import Refusal, Unavailable
from engine.hosts.cores import usable_cores
from engine.records import QUEUES
from engine.text_file import NotUtf8

# The longest that a plan may take, seconds.
PLAN_S = 60.0
# It gives way to everything that sends messages.
_COMMAND = ("nice", "-n", "10", sys.executable, "-m", "engine.capacity")

_log = structlog.get_logger("admin")


class PlanProcess:
    """Makes plans."""

    def __init__(self, config: Config, traffic: Callable[[int], Awaitable[Traffic]]) -> None:
        """`traffic`: the busiest minutes of the last so many days; raises Unavailable."""
        self._config = config
        self._traffic = traffic

    async def plan(self, wish: PlanWish) -> PlanAnswer:
        """The plan that is wished for. Raises Refusal 422, Unavailable."""
        busiest = [] if wish.peaks else (await self._traffic(wish.days)).busiest
        request = PlanRequest(
            wish=wish,
            busiest=busiest,
            costs=_measured(self._config),
            backoff_s={queue: self._config.queues.of(queue).backoff_s for queue in QUEUES},
            cores=usable_cores(pinned=len(self._config.processes.cpus)),
        )
        octets = await _answered(msgspec.json.encode(request))
        if b'"type":"refused"' in octets[:40]:
            refused = msgspec.json.decode(octets, type=PlanRefused)
            raise Refusal("invalid_field", 422, refused.detail, refused.field)
        return msgspec.json.decode(octets, type=PlanAnswer)


async def _answered(request: bytes) -> bytes:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*_COMMAND, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        answer, errors = await asyncio.wait_for(process.communicate(request), PLAN_S)
    except TimeoutError:
        raise Unavailable(f"The plan was not found within {PLAN_S:g} s; ask for less.", 60.0) from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        _log.warning(
            "a plan failed", code=process.returncode, errors=errors[-2_000:].decode(errors="replace")
        )
        raise Unavailable("The process that plans has failed; see the log.", 5.0)
    return answer


def _measured(config: Config) -> Costs | None:
    """What the engine costs on this machine; None when nobody has measured that, or it cannot be read."""
    try:
        text = text_file.read(Path(config.data_dir, costs_of.CALIBRATION))
        return costs_of.decode(text.encode())
    except (OSError, NotUtf8, ValueError):
        return None
