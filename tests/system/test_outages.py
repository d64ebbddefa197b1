"""Stores that go away and ledgers that die: what the customer sees meanwhile, and after."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from engine.redis_keys import held_key
from tests.system.client import Caller, eventually
from tests.system.conftest import Engine, answer, start_engine
from tests.system.faults import Senders, assert_clean, fetch_processes


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine with a standby ledger."""
    folder = tmp_path_factory.mktemp("outages")
    config = folder / "smsengine.toml"
    config.write_text("[roles]\nledger = 2\ningest = 2\n")
    engine = start_engine(folder / "data", ("--demo", "--config", config))
    yield engine
    engine.stop()
    engine.kill()


def descendants(pid: int) -> list[int]:
    found = [pid]
    for at in found:
        try:
            found += [int(c) for c in Path(f"/proc/{at}/task/{at}/children").read_text().split()]
        except OSError:
            continue
    return found


def server_of(engine: Engine, mark: str) -> int:
    """The supervisor's child whose command line contains `mark`."""
    for pid in descendants(engine.pid)[1:]:
        if mark in Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode():
            return pid
    raise AssertionError(f"no process with {mark!r}")


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process and all below it stand still."""
    pids = descendants(pid)
    for p in pids:
        os.kill(p, signal.SIGSTOP)
    try:
        yield
    finally:
        for p in reversed(pids):
            with suppress(ProcessLookupError):
                os.kill(p, signal.SIGCONT)


def customer(engine: Engine, units: int) -> Caller:
    admin = Caller(engine.admin_url, engine.admin_key)
    _, made = admin.call("POST", "/v1/admin/organisations", {"name": "customer"})
    top_up = {"units": units, "reference": "r"}
    assert admin.call("POST", f"/v1/admin/organisations/{made['id']}/top-ups", top_up)[0] == 201
    return Caller(engine.url, made["api_key"])


def send(caller: Caller) -> tuple[int, Any]:
    return caller.call("POST", "/v1/messages", {"to": "+989121234567", "text": "hello"})


def active_ledger(engine: Engine) -> int:
    leading = re.findall(r'leading .*process="ledger (\d)"', engine.log.read_text())
    rows = [p for p in fetch_processes(engine) if p["role"] == "ledger"]
    return next(p["pid"] for p in rows if p["index"] == int(leading[-1]))


def test_a_standby_ledger_takes_over_while_a_request_waits(victim: Engine) -> None:
    fresh = customer(victim, 100)
    os.kill(active_ledger(victim), signal.SIGKILL)
    # Its first message needs a grant, so it needs a ledger that leads; it is sent once.
    assert send(fresh)[0] == 202
    assert_clean(victim)


def test_while_postgresql_is_away_quotas_are_spent_and_nobody_is_refused(victim: Engine) -> None:
    known, fresh = customer(victim, 10_000), customer(victim, 10_000)
    # Every process has quota for the one; the other has only had its key looked up.
    for _ in range(40):
        assert send(known)[0] == 202
        assert fresh.call("GET", "/v1/balance")[0] == 200
    with frozen(server_of(victim, "/postgres")):
        answers = [send(known)[0] for _ in range(20)]
        status, problem = send(fresh)
    assert answers == [202] * 20
    assert (status, problem["code"]) == (503, "unavailable")
    eventually(lambda: send(fresh)[0] == 202)
    assert_clean(victim)


def test_an_audit_says_by_its_exit_code_whether_it_could_look_and_what_it_saw(victim: Engine) -> None:
    customer(victim, 100)
    assert_clean(victim)
    with frozen(server_of(victim, "embedded.clickhouse")):
        done = victim.run("audit", "--timeout", 30)
        told = answer(victim.run("audit", "--timeout", 30, "--json"), code=3)
    assert (done.returncode, done.stderr) == (3, "")
    assert "not everything could be checked" in done.stdout
    assert "See to it that ClickHouse answers" in done.stdout
    assert [c["name"] for c in told["checks"] if c["verdict"] != "clean"] == ["activity"]
    urls = json.loads((victim.data_dir / "run" / "engine.json").read_text())["config"]
    redis = Redis.from_url(urls["redis"]["url"])
    redis.incrby(held_key(3), 5)
    done = victim.run("audit")
    assert (done.returncode, done.stderr) == (1, "")
    assert "NOT CLEAN" in done.stdout
    assert "shard 3 by" in done.stdout
    redis.decrby(held_key(3), 5)
    redis.close()
    assert_clean(victim)


def test_redis_killed_and_restarted_from_its_file_loses_nothing(victim: Engine) -> None:
    caller = customer(victim, 10_000)
    body = {"messages": [{"to": "+989121234567", "text": "hello"}] * 100}
    accepted = []
    for _ in range(10):
        status, answer = caller.insist("/v1/messages/batch", body)
        assert status == 202
        accepted += [result["id"] for result in answer["results"]]
        if len(accepted) == 500:
            os.kill(server_of(victim, "valkey-server"), signal.SIGKILL)
    assert len(set(accepted)) == 1000

    def all_charged() -> bool:
        status, balance = caller.call("GET", "/v1/balance")
        return status == 200 and (balance["posted"], balance["held"]) == (9000, 0)

    eventually(all_charged)
    assert_clean(victim)


def test_redis_that_comes_back_without_its_last_moments_is_noticed_and_service_goes_on(
    victim: Engine,
) -> None:
    files = victim.data_dir / "redis" / "appendonlydir"
    before = victim.log.read_text().count("closing the books of a shard")
    senders = Senders(victim, count=2, patience_s=60.0)
    eventually(lambda: len(senders.accepted) > 500)
    moment = {path: path.stat().st_size for path in files.iterdir()}
    then = len(senders.accepted)
    # So much is accepted, charged and paid for with what the file is about to lose.
    eventually(lambda: len(senders.accepted) > then + 1000)
    go_back(victim, moment)
    lost = len(senders.accepted)
    eventually(lambda: len(senders.accepted) > lost + 1000)
    senders.stop()
    closings = victim.log.read_text().split("closing the books of a shard")[before + 1 :]
    assert closings
    assert all('cause="Redis went back in generation ' in closing for closing in closings)

    def settled() -> bool:
        _, status = Caller(victim.admin_url, victim.admin_key).call("GET", "/v1/admin/status")
        return not any(q["waiting"] + q["in_hand"] + q["due"] for q in status["queues"].values())

    eventually(settled, timeout_s=60)
    # What was recorded before the loss does not match the books any more; an audit says so, takes
    # the difference up once Redis gives only later places, and from then on all is compared again.
    audit = Caller(victim.admin_url, victim.admin_key).call("GET", "/v1/admin/audit")[1]
    assert [c["name"] for c in audit["checks"] if c["verdict"] == "not_checked"] == ["activity"]
    assert audit["verdict"] == "not_checked"
    assert_clean(victim, timeout_s=60)
    # Whoever was granted something before is served by the new rules.
    caller = customer(victim, 10)
    assert spend_all(victim, caller) == 10


def go_back(engine: Engine, moment: dict[Path, int]) -> None:
    """Kill Redis, and let it start with the file it had at a moment."""
    redis = server_of(engine, "valkey-server")
    # Whoever would start it at once is held up.
    os.kill(engine.pid, signal.SIGSTOP)
    try:
        os.kill(redis, signal.SIGKILL)
        eventually(lambda: ") Z " in Path(f"/proc/{redis}/stat").read_text())
        for path, size in moment.items():
            os.truncate(path, size)
    finally:
        os.kill(engine.pid, signal.SIGCONT)


def test_a_hung_ingest_process_is_ended_and_its_quota_served_by_the_others(victim: Engine) -> None:
    caller = customer(victim, 100)
    assert send(caller)[0] == 202
    hung = next(p["pid"] for p in fetch_processes(victim) if p["role"] == "ingest")
    with frozen(hung):
        eventually(lambda: hung not in [p["pid"] for p in fetch_processes(victim)])
    assert spend_all(victim, caller) == 99


def test_an_ingest_process_frozen_past_its_fencing_spends_nothing_when_it_wakes(victim: Engine) -> None:
    caller = customer(victim, 100)
    frozen_pid, other = (p["pid"] for p in fetch_processes(victim) if p["role"] == "ingest")
    # Both have quota, and the supervisor that would end the frozen one is frozen with it,
    # as on a machine that stands still: the ledger fences it for its silence.
    with frozen(other):
        assert send(fresh_connection(victim, caller))[0] == 202
    os.kill(victim.pid, signal.SIGSTOP)
    os.kill(frozen_pid, signal.SIGSTOP)
    try:
        assert spend_all(victim, caller) == 99
        assert "fencing holders that fell silent" in victim.log.read_text()
    finally:
        os.kill(frozen_pid, signal.SIGCONT)
        os.kill(victim.pid, signal.SIGCONT)
    # Both answer again, and neither has anything left to spend.
    answers = [refusal(victim, caller) for _ in range(20)]
    assert set(answers) <= {402, 503}
    assert eventually(lambda: (s := refusal(victim, caller)) != 503 and s) == 402
    assert_clean(victim)


def fresh_connection(engine: Engine, caller: Caller) -> Caller:
    """Accepted by whichever process is awake."""
    return Caller(engine.url, caller.key, timeout_s=20)


def refusal(engine: Engine, caller: Caller) -> int:
    """The status of a message; 503 when nobody answers, as its process may be ended for its silence."""
    try:
        return send(fresh_connection(engine, caller))[0]
    except OSError:
        return 503


def spend_all(engine: Engine, caller: Caller) -> int:
    """Send until 402; how many were accepted."""
    accepted, deadline = 0, time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            status = send(fresh_connection(engine, caller))[0]
        except OSError:
            continue
        if status == 402:
            return accepted
        accepted += status == 202
    raise AssertionError(f"never refused; {accepted} accepted")
