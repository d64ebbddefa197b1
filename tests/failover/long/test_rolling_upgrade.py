"""An upgrade node by node, as docs/operations.md describes it, under load behind a balancer."""

from __future__ import annotations

import http.client
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.failover.nodes import Stores, stores
from tests.system.client import Caller, eventually
from tests.system.conftest import Engine, answer
from tests.system.faults import assert_all_delivered

# Accepted between one step and the next.
_SOME = 100
_TIMEOUT_S = 30.0


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Stores]:
    with stores(tmp_path) as shared:
        yield shared


def ready(engine: Engine) -> int:
    """What /readyz answers; 0: nobody does."""
    try:
        with urllib.request.urlopen(f"{engine.url}/readyz", timeout=5) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as e:
        return e.code
    except OSError:
        return 0


class Balancer(threading.Thread):
    """Looks at /readyz of each node, as a load balancer does."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: dict[str, Engine] = {}
        self.ready: list[Engine] = []
        self.enough = threading.Event()

    def run(self) -> None:
        while not self.enough.is_set():
            self.ready = [engine for engine in list(self.nodes.values()) if ready(engine) == 200]
            self.enough.wait(0.5)


class Customer(threading.Thread):
    """Sends batches through the balancer, each with one Idempotency-Key until it is accepted."""

    def __init__(self, balancer: Balancer, queue: str) -> None:
        super().__init__()
        self._balancer, self._queue = balancer, queue
        self.accepted: list[str] = []
        self.refused = 0
        self.failure = ""

    def run(self) -> None:
        callers: dict[str, Caller] = {}
        turn = 0
        while not self._balancer.enough.is_set():
            key, deadline = str(uuid.uuid4()), time.monotonic() + _TIMEOUT_S
            while True:
                if time.monotonic() > deadline:
                    self.failure = "no node took it"
                    return
                turn += 1
                up = self._balancer.ready
                if not up:
                    time.sleep(0.1)
                    continue
                node = up[turn % len(up)]
                caller = callers.setdefault(node.url, Caller(node.url, node.api_key))
                messages = [{"to": "+989121234567", "text": "hi", "queue": self._queue}] * 10
                try:
                    status, reply = caller.call(
                        "POST", "/v1/messages/batch", {"messages": messages}, **{"Idempotency-Key": key}
                    )
                except (OSError, http.client.HTTPException):
                    self.refused += 1
                    continue
                if status == 202:
                    self.accepted += [result["id"] for result in reply["results"]]
                    break
                if status != 503:
                    self.failure = f"{status}: {reply}"
                    return
                self.refused += 1
            time.sleep(0.1)


def seen(by: Engine) -> dict[str, str]:
    """What each node does, as one of them says."""
    return {node["name"]: node["seen"] for node in answer(by.run("node", "list", "--json"))["nodes"]}


def roles(by: Engine, name: str) -> set[str]:
    nodes = answer(by.run("node", "list", "--json"))["nodes"]
    return {p["role"] for node in nodes if node["name"] == name for p in node["processes"] if p["pid"]}


def test_nodes_are_upgraded_one_after_another_and_nothing_is_lost_or_doubled(shared: Stores) -> None:
    balancer = Balancer()
    balancer.nodes = {name: shared.start(name) for name in ("a", "b")}
    customers = [Customer(balancer, queue) for queue in ("express", "normal")]
    try:
        balancer.start()
        eventually(lambda: len(balancer.ready) == 2)
        for customer in customers:
            customer.start()

        def go_on() -> None:
            wanted = [len(customer.accepted) + _SOME for customer in customers]
            eventually(
                lambda: all(
                    len(c.accepted) >= n or c.failure for c, n in zip(customers, wanted, strict=True)
                ),
                60,
            )
            assert [c.failure for c in customers] == ["", ""]

        go_on()
        for name, other in (("a", "b"), ("b", "a")):
            node, stays = balancer.nodes[name], balancer.nodes[other]
            eventually(lambda by=stays: seen(by) == {"a": "running", "b": "running"})
            # Refused until the other one has noted that its processes work.
            eventually(lambda n=node: n.run("node", "drain", "--wait", "--reason", "upgrade").returncode == 0)
            # Only the API is left, and the process that speaks for the node.
            eventually(lambda by=stays, n=name: roles(by, n) == {"admin", "ingest", "node"})
            assert ready(node) == 503
            go_on()
            refused = stays.run("node", "drain")
            assert refused.returncode == 2
            assert "no other node has" in refused.stderr
            # The new version is started; here it is the same.
            assert node.stop() == 0
            eventually(lambda by=stays, n=name: seen(by)[n] == "stopped")
            node = balancer.nodes[name] = shared.start(name)
            eventually(lambda by=stays, n=name: seen(by)[n] == "drained")
            assert ready(node) == 503
            assert roles(node, name) == {"admin", "ingest", "node"}
            assert answer(node.run("node", "resume", "--json"))["node"] == name
            eventually(lambda n=node: ready(n) == 200)
            eventually(lambda by=stays, n=name: "express" in roles(by, n))
            go_on()
        balancer.enough.set()
        for customer in customers:
            customer.join()
        accepted = [message_id for customer in customers for message_id in customer.accepted]
        assert_all_delivered(balancer.nodes["a"], accepted, duplicates_max=0)
        # The balancer looks twice a second, and nodes take messages for ten seconds after their drain.
        assert [customer.refused for customer in customers] == [0, 0]
        for node in balancer.nodes.values():
            assert "Traceback" not in node.log.read_text()
    finally:
        balancer.enough.set()
        for engine in balancer.nodes.values():
            engine.kill()
