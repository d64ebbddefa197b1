"""Three organisations wait at a limited provider while their worker is killed again and again."""

from __future__ import annotations

import os
import signal
import time
from bisect import bisect_right

from engine.shards import shard_of
from tests.chaos.test_chaos import pid_of
from tests.system.carriers import in_force
from tests.system.client import Caller, eventually, fetch
from tests.system.conftest import Engine, answer
from tests.system.faults import assert_clean

# Of each organisation.
MESSAGES = 1200
RATE = 300
KILLS = 4
# What a worker of a provider with this throughput has in hand at most, and what the provider takes from it
# while it is being replaced.
IN_HAND = 100


def neighbours(engine: Engine) -> dict[int, Caller]:
    """Three organisations with credit in one shard, each with a caller of its own."""
    admin, by_shard = Caller(engine.admin_url, engine.admin_key), {}
    while True:
        status, made = admin.call("POST", "/v1/admin/organisations", {"name": "one of three"})
        assert status == 201
        top_up = {"units": 100_000, "reference": "first"}
        assert admin.call("POST", f"/v1/admin/organisations/{made['id']}/top-ups", top_up)[0] == 201
        of_shard = by_shard.setdefault(shard_of(made["id"], 16), {})
        of_shard[made["id"]] = Caller(engine.url, made["api_key"])
        if len(of_shard) == 3:
            return of_shard


def received(engine: Engine) -> list[str]:
    return list(fetch(f"{engine.simulator_url}/received?limit=1000000")["ids"])


def out_of_order(numbers: list[int]) -> int:
    """How many have to be left out, so that the others are in order."""
    tails: list[int] = []
    for number in numbers:
        at = bisect_right(tails, number)
        tails[at : at + 1] = [number]
    return len(numbers) - len(tails)


def test_backlogs_share_a_limited_provider_and_lose_nothing_when_their_worker_dies(victim: Engine) -> None:
    callers = neighbours(victim)
    answer(victim.run("provider", "throughput", "simulated", RATE, "--json"))
    # Nothing is sent before all three wait.
    answer(victim.run("provider", "pause", "simulated", "--json"))
    in_force(victim)
    owner: dict[str, tuple[int, int]] = {}
    for organisation, caller in callers.items():
        for first in range(0, MESSAGES, 400):
            messages = [{"to": "+989121234567", "text": f"{first + n}"} for n in range(400)]
            status, taken = caller.insist("/v1/messages/batch", {"messages": messages})
            assert status == 202
            owner |= {r["id"]: (organisation, first + n) for n, r in enumerate(taken["results"])}

    waiting = answer(victim.run("queue", "show", "normal", "--json"))
    assert {o["organisation_id"] for o in waiting["organisations"]} == set(callers)
    answer(victim.run("provider", "resume", "simulated", "--json"))
    for _ in range(KILLS):
        time.sleep(1.5)
        pid = eventually(lambda: pid_of(victim, "normal"))
        os.kill(pid, signal.SIGKILL)
    # All three wait still.
    eventually(lambda: len(received(victim)) >= 3 * MESSAGES * 2 // 3, 60)
    so_far = [owner[i][0] for i in dict.fromkeys(received(victim))]
    shares = sorted(so_far.count(organisation) for organisation in callers)
    assert shares[-1] - shares[0] <= 0.1 * len(so_far) / 3 + KILLS * IN_HAND / 3, shares

    eventually(lambda: set(received(victim)) == set(owner), 60)
    assert fetch(f"{victim.simulator_url}/stats")["duplicates"] <= KILLS * IN_HAND
    at_last = list(dict.fromkeys(received(victim)))
    for organisation in callers:
        numbers = [owner[i][1] for i in at_last if owner[i][0] == organisation]
        assert out_of_order(numbers) <= KILLS * IN_HAND
    eventually(lambda: assert_clean(victim)["totals"]["held"] == 0, timeout_s=20)
    assert assert_clean(victim)["totals"]["captured"] == len(owner)
