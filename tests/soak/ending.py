"""How a soak must end: everything accepted is sent or has failed for a reason, and the books are clean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.soak.world import World
from tests.system.client import Caller, eventually, fetch
from tests.system.faults import assert_clean

# A worker's `concurrency`: what it can have in flight when it is killed, or its carrier loses answers.
_IN_FLIGHT = 200
_SETTLED_S = 240.0


def ended_well(world: World, accepted: list[tuple[str, str]], done: Counter[str]) -> list[str]:
    """Wait until nothing is under way. One sentence for each promise that is broken."""
    for index in range(2):
        world.well(index)
    sentences: list[str] = []
    _hold(
        sentences, "Not everything was settled", lambda: eventually(lambda: _nothing_waits(world), _SETTLED_S)
    )
    _hold(sentences, "Units stay held", lambda: eventually(lambda: _held(world) == 0, 60.0))
    _hold(sentences, "The audit is not clean", lambda: assert_clean(world.engine))
    if len(set(accepted)) != len(accepted):
        sentences.append("An id was given twice.")
    received: set[str] = set()
    sends = 0
    for carrier in world.carriers:
        received |= set(fetch(f"{carrier.url}/received?limit=10000000")["ids"])
        sends += fetch(f"{carrier.url}/stats")["received"]
    missing = [(i, key) for i, key in accepted if i not in received]
    lost = [i for i, key in missing if not _failed(Caller(world.engine.url, key), i)]
    if lost:
        sentences.append(
            f"{len(lost)} accepted messages are at no carrier and have not failed, such as {lost[0]}."
        )
    # A killed worker, a killed store, and a carrier that loses answers leave nobody who knows.
    unsure = sum(n for what, n in done.items() if "killed" in what or "carrier" in what)
    doubled = sends - len(received)
    if doubled > 2 * _IN_FLIGHT * unsure:
        sentences.append(f"{doubled} messages were sent twice, more than can have been in flight.")
    print(  # noqa: T201 - what it saw
        f"{len(accepted)} accepted, {len(received)} at the carriers, "
        f"{len(missing)} failed, {doubled} sent twice"
    )
    # What a client library logs of a store that was killed is none of ours.
    log = "\n".join(line for line in world.engine.log.read_text().splitlines() if " library=" not in line)
    for word in ("Traceback", "child_broken", "a fault of this program"):
        if word in log:
            sentences.append(f"The log has {log.count(word)} times {word!r}.")
    return sentences


def _hold(sentences: list[str], what: str, step: Callable[[], Any]) -> None:
    try:
        step()
    except AssertionError as e:
        sentences.append(f"{what}: {str(e)[:500]}")


def _status(world: World) -> Any:
    return Caller(world.engine.admin_url, world.engine.admin_key).call("GET", "/v1/admin/status")[1]


def _nothing_waits(world: World) -> bool:
    queues = _status(world)["queues"].values()
    return not any(q["waiting"] + q["in_hand"] + q["due"] + q["dead"] for q in queues)


def _held(world: World) -> int:
    return int(assert_clean(world.engine)["totals"]["held"])


def _failed(caller: Caller, message_id: str) -> bool:
    """Whether its organisation is told that it was not taken, or that nobody knows."""
    status, found = caller.call("GET", f"/v1/messages/{message_id}")
    return status == 200 and found["status"] in ("failed", "expired", "outcome_unknown")
