"""Every role and every server killed or frozen at random under load, for minutes.

    make chaos [MINUTES=3] [SEED=1]

At the end nothing accepted is missing at the provider, the audit is clean, and messages
that reached the provider twice are no more than the killed or frozen workers can have had
in flight. The simulator is the one process that is spared: it counts.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path

from tests.system.client import eventually
from tests.system.conftest import Engine
from tests.system.faults import ROLES, Senders, assert_all_delivered, fetch_processes

MINUTES = float(os.environ.get("MINUTES", "3"))
SEED = int(os.environ.get("SEED", "1"))
SERVERS = {"postgres": "/postgres", "redis": "valkey-server", "clickhouse": "embedded.clickhouse"}
# What a worker can have in flight: its concurrency.
IN_FLIGHT = 200


def children(pid: int) -> dict[int, str]:
    """Direct children of the supervisor with their command lines."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            found[int(child)] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found


def pid_of(engine: Engine, name: str) -> int | None:
    if name in SERVERS:
        marks = [pid for pid, command in children(engine.pid).items() if SERVERS[name] in command]
        return marks[0] if marks else None
    found = [pid for pid, command in children(engine.pid).items() if f"smsengine: {name} " in command]
    return found[0] if found else None


def hurt(rng: random.Random, engine: Engine, name: str) -> str:
    """Kill it, or freeze it for a while: shorter or longer than its supervisor's patience."""
    pid = pid_of(engine, name)
    if pid is None:
        return "absent"
    try:
        if rng.random() < 0.6:
            os.kill(pid, signal.SIGKILL)
            return "killed"
        os.kill(pid, signal.SIGSTOP)
        time.sleep(rng.choice([0.2, 1.0, 3.0, 14.0 if name in ROLES else 4.0]))
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return "gone while frozen"
    return "frozen"


def test_chaos_loses_nothing_and_charges_once(victim: Engine) -> None:
    rng = random.Random(SEED)
    senders = Senders(victim, count=3, patience_s=180.0)
    done: Counter[tuple[str, str]] = Counter()
    until = time.monotonic() + MINUTES * 60
    beats = threading.Event()
    while time.monotonic() < until:
        name = rng.choice([*ROLES, *SERVERS])
        done[name, hurt(rng, victim, name)] += 1
        beats.wait(rng.uniform(0.2, 4.0))
    accepted = senders.stop()
    print(f"{len(accepted)} accepted; {dict(done)}")  # noqa: T201 - what a long run did
    eventually(lambda: len({p["role"] for p in fetch_processes(victim) if p["state"] == "ready"}) == 8, 120)
    hurt_workers = sum(n for (name, _), n in done.items() if name in ("express", "normal", "redis"))
    assert_all_delivered(victim, accepted, duplicates_max=2 * IN_FLIGHT * hurt_workers, timeout_s=180)
