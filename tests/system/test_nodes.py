"""Drains and numbers of workers on the whole engine: nothing is lost, and everything goes on afterwards."""

from __future__ import annotations

import os
import time
from typing import Any

from engine.hosts.cpu_turns import FIRST_NICE
from tests.system.client import Caller, eventually
from tests.system.conftest import Engine, answer

MESSAGE = {"to": "+989121234567", "text": "hello"}


def admin(engine: Engine, method: str, path: str, body: object = None) -> tuple[int, Any]:
    return Caller(engine.admin_url, engine.admin_key).call(method, f"/v1/admin/{path}", body)


def workers(engine: Engine, role: str) -> list[dict[str, Any]]:
    processes = admin(engine, "GET", "status")[1]["processes"]
    return [p for p in processes if p["role"] == role and p["state"] == "ready"]


def alive(engine: Engine) -> set[str]:
    """The roles that have a process, whatever its state."""
    return {p["role"] for p in admin(engine, "GET", "status")[1]["processes"] if p["pid"]}


def sent(caller: Caller, message_id: str) -> bool:
    status, view = caller.call("GET", f"/v1/messages/{message_id}")
    return status == 200 and view["status"] in ("sent", "delivered")


def test_redis_computes_first_and_roles_that_messages_seldom_wait_for_last(engine: Engine) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    redis = os.getpriority(os.PRIO_PROCESS, int((engine.data_dir / "run" / "redis.pid").read_text()))
    # Only root has the right to it without a limit that allows it.
    assert redis == (max(-20, own - FIRST_NICE) if os.geteuid() == 0 else own)
    later: dict[str, set[int]] = {}
    for process in admin(engine, "GET", "status")[1]["processes"]:
        if process["pid"]:
            nice = os.getpriority(os.PRIO_PROCESS, process["pid"])
            later.setdefault(process["role"], set()).add(nice - own)
    gives_way = {role: {min(5, 19 - own)} for role in ("ledger", "archiver", "notifier")}
    assert later == {role: {0} for role in later} | gives_way
    assert {"ingest", "express", "normal", "admin"} <= later.keys()


def test_workers_are_added_and_taken_away_while_it_runs(engine: Engine) -> None:
    before = workers(engine, "express")
    scaled = answer(engine.run("queue", "scale", "express", "2", "--json"))
    assert scaled["processes"] == 2, "the node of the data directory"
    eventually(lambda: len(workers(engine, "express")) == 2)
    assert [p["pid"] for p in before] == [workers(engine, "express")[0]["pid"]]
    [node] = admin(engine, "GET", "nodes")[1]["nodes"]
    eventually(lambda: admin(engine, "GET", "nodes")[1]["nodes"][0]["roles"]["express"] == 2)
    assert node["configured"]["express"] == 1
    assert {p["concurrency"] for p in workers(engine, "express")} == {200}
    scaled = answer(engine.run("queue", "scale", "express", "2", "--concurrency", "350", "--json"))
    assert (scaled["processes"], scaled["concurrency"]) == (2, 350)
    pids = [p["pid"] for p in workers(engine, "express")]
    eventually(lambda: [p["concurrency"] for p in workers(engine, "express")] == [350, 350])
    assert [p["pid"] for p in workers(engine, "express")] == pids, "they work on"
    assert admin(engine, "POST", "queues/express/scale", {"processes": 0})[0] == 409
    assert admin(engine, "POST", "queues/express/scale", {"processes": None, "concurrency": None})[0] == 200
    eventually(lambda: [p["concurrency"] for p in workers(engine, "express")] == [200])


def test_a_drained_queue_takes_nothing_and_the_other_goes_on(engine: Engine) -> None:
    caller = Caller(engine.url, engine.api_key)
    assert answer(engine.run("queue", "drain", "normal", "--reason", "test", "--json"))["drain"]
    try:
        eventually(lambda: caller.call("POST", "/v1/messages", MESSAGE)[0] == 503)
        status, problem = caller.call("POST", "/v1/messages", MESSAGE)
        assert (status, problem["code"], caller.headers["Retry-After"]) == (503, "queue_drained", "30")
        batch = {"messages": [MESSAGE | {"queue": "express"}, MESSAGE]}
        assert caller.call("POST", "/v1/messages/batch", batch)[1]["code"] == "queue_drained"
        assert caller.call("POST", "/v1/messages", MESSAGE | {"queue": "express"})[0] == 202
        assert admin(engine, "GET", "status")[1]["drained_queues"]["normal"]["reason"] == "test"
    finally:
        assert admin(engine, "POST", "queues/normal/resume")[0] == 200
    eventually(lambda: caller.call("POST", "/v1/messages", MESSAGE)[0] == 202)


def with_quota(engine: Engine) -> Caller:
    """A customer of its own, for whom the ingest process has units: the next message needs no ledger."""
    made = admin(engine, "POST", "organisations", {"name": "beside a drain"})[1]
    top_up = {"units": 1000, "reference": "r1"}
    assert admin(engine, "POST", f"organisations/{made['id']}/top-ups", top_up)[0] == 201
    caller = Caller(engine.url, made["api_key"])
    status, first = caller.call("POST", "/v1/messages", MESSAGE | {"queue": "express"})
    assert status == 202
    eventually(lambda: sent(caller, first["id"]))
    return caller


def test_a_drained_node_sends_nothing_is_not_ready_and_goes_on_where_it_was(engine: Engine) -> None:
    caller = with_quota(engine)
    [node] = admin(engine, "GET", "nodes")[1]["nodes"]
    assert admin(engine, "POST", f"nodes/{node['name']}/drain")[0] == 409
    answer(engine.run("node", "drain", "--force", "--reason", "test", "--json"))
    try:
        eventually(lambda: caller.call("GET", "/readyz")[0] == 503)
        assert caller.call("GET", "/readyz")[1]["status"] == "drained"
        assert caller.headers["Connection"] == "close"
        # Those that end in order are processes too, until they have.
        eventually(lambda: not {"express", "ledger"} & alive(engine))
        # A balancer has not noticed yet: the message is taken, and waits.
        status, accepted = caller.call("POST", "/v1/messages", MESSAGE | {"queue": "express"})
        assert status == 202, accepted
        time.sleep(0.1)
        assert not sent(caller, accepted["id"])
        eventually(lambda: admin(engine, "GET", "nodes")[1]["nodes"][0]["reason"] == "test")
        assert admin(engine, "GET", "nodes")[1]["nodes"][0]["drain_wished"] is True
    finally:
        answer(engine.run("node", "resume", "--json"))
    eventually(lambda: sent(caller, accepted["id"]))
    # The ingest process looks once a second what is wished.
    eventually(lambda: caller.call("GET", "/readyz")[0] == 200)
