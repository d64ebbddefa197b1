"""What operators wish of a node, carried out by its supervisor: drains, and numbers of workers."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime

import msgspec

from engine.config import ROLES, Role
from engine.nodes.records import NodeWish, QueueScaled
from supervisor.process import scaling as rule
from supervisor.process import snapshot
from tests.supervisor.process.running import Running, Start, until

ONE_OF_EACH: dict[Role, int] = dict.fromkeys(ROLES, 1)
DRAINED = NodeWish(drained_at=datetime(2026, 11, 28, tzinfo=UTC))


def wish(running: Running, wished: NodeWish) -> None:
    put(running, "wish", wished)


def put(running: Running, name: str, record: object) -> None:
    """Replace the file as a whole."""
    draft = running.here / f"{name}.new"
    draft.write_bytes(msgspec.json.encode(record))
    draft.rename(running.here / name)


def test_a_drained_node_wants_its_api_and_its_speaker_and_nothing_else() -> None:
    assert rule.wanted_of(ONE_OF_EACH, NodeWish()) == ONE_OF_EACH
    more = NodeWish(processes={"express": 4, "normal": 0})
    assert rule.wanted_of(ONE_OF_EACH, more) == ONE_OF_EACH | {"express": 4, "normal": 0}
    both = msgspec.structs.replace(more, drained_at=DRAINED.drained_at)
    wanted = rule.wanted_of(ONE_OF_EACH, both)
    assert {role for role, count in wanted.items() if count} == {"admin", "ingest", "node"}
    assert rule.wanted_of(ONE_OF_EACH | {"ingest": 0}, both)["ingest"] == 0


def test_a_wish_is_carried_out_without_a_restart_and_its_end_too(start: Start) -> None:
    running = start(roles={"archiver": 0})
    before = running.ready()
    wish(running, NodeWish(processes={"express": 3}))
    until(lambda: "express 3" in running.rows())
    rows = running.ready()
    assert rows["express 1"].pid == before["express 1"].pid, "who works goes on"

    wish(running, DRAINED)
    until(lambda: sorted(running.rows()) == ["admin 1", "ingest 1", "node 1"])
    assert [e["role"] for e in running.events("drained")].count("express") == 3
    assert running.fenced() == [], "they drained, and nobody was killed"
    file = snapshot.read(snapshot.path_in(running.here))
    assert file is not None
    assert (file.wish.drained, file.configured["express"]) == (True, 1)
    assert running.rows()["ingest 1"].pid == before["ingest 1"].pid

    (running.here / "wish").write_text("no wish at all")
    wish(running, NodeWish())
    until(lambda: "normal 1" in running.rows())
    roles = ["admin 1", "express 1", "ingest 1", "ledger 1", "node 1", "normal 1", "notifier 1"]
    assert sorted(running.ready()) == roles
    running.send(signal.SIGTERM)
    assert running.end() == 0


def test_a_worker_gets_another_concurrency_while_it_works_and_after_a_death(start: Start) -> None:
    running = start(roles={"archiver": 0})
    before = running.ready()["express 1"]
    assert before.concurrency == 200, "as configured"

    def allowed() -> list[int]:
        return [event["concurrency"] for event in running.events("allowed")]

    wish(running, NodeWish(concurrency={"express": 700}))
    until(lambda: running.rows()["express 1"].concurrency == 700)
    assert (running.rows()["express 1"].pid, allowed()) == (before.pid, [700])

    os.kill(before.pid, signal.SIGKILL)
    until(lambda: running.rows()["express 1"].pid not in (0, before.pid))
    until(lambda: running.rows()["express 1"].concurrency == 700)
    file = snapshot.read(snapshot.path_in(running.here))
    assert file is not None
    assert (file.concurrency["express"], file.configured_concurrency["express"]) == (700, 200)

    wish(running, NodeWish())
    until(lambda: running.rows()["express 1"].concurrency == 200)
    assert allowed() == [700, 700, 200]
    running.send(signal.SIGTERM)
    assert running.end() == 0


def test_autoscaling_is_carried_out_in_its_bounds_of_configuration_and_an_operator_wins(start: Start) -> None:
    roles = {"archiver": 0, "ledger": 0, "normal": 1}
    running = start(roles=roles, autoscale={"express": {}})
    running.ready()
    last = QueueScaled(
        processes=2,
        concurrency=600,
        processes_before=1,
        concurrency_before=200,
        at_us=5,
        reason="more arrives",
    )
    put(running, "scaled", {"express": last, "normal": last})
    until(lambda: "express 2" in running.rows() and running.rows()["express 2"].concurrency == 600)
    until(lambda: running.rows()["express 1"].concurrency == 600)
    assert "normal 2" not in running.rows(), "the configuration does not let it"
    file = snapshot.read(snapshot.path_in(running.here))
    assert file is not None
    assert file.scaled == {"express": last}
    [line] = running.logged("autoscaled")
    assert (line["queue"], line["reason"], line["concurrency_before"]) == ("express", "more arrives", 200)

    wish(running, NodeWish(processes={"express": 1}, concurrency={"express": 50}))
    until(lambda: "express 2" not in running.rows() and running.rows()["express 1"].concurrency == 50)
    wish(running, NodeWish())
    until(lambda: "express 2" in running.rows() and running.rows()["express 1"].concurrency == 600)

    (running.here / "config.toml").write_text(
        "node = 'node-1'\n[roles]\narchiver = 0\nledger = 0\n[queues.express]\nconcurrency = 30\n"
    )
    running.send(signal.SIGHUP)
    until(lambda: running.logged("reloaded"))
    until(lambda: "express 2" not in running.rows() and running.rows()["express 1"].concurrency == 30)
    assert len(running.logged("autoscaled")) == 1, "what is told again is no news"


def test_a_supervisor_that_starts_drained_starts_no_worker(start: Start) -> None:
    running = start(wish=msgspec.to_builtins(DRAINED))
    assert sorted(running.ready()) == ["admin 1", "ingest 1", "node 1"]
    assert {e["role"] for e in running.events("born")} == {"admin", "ingest", "node"}
    running.send(signal.SIGTERM)
    assert running.end() == 0


def test_a_reload_of_a_scaled_node_keeps_the_number_that_was_wished(start: Start) -> None:
    roles = {"normal": 0, "archiver": 0, "ledger": 0}
    running = start(roles=roles, wish={"processes": {"express": 2}})
    assert "express 2" in running.ready()
    (running.here / "config.toml").write_text(
        "node = 'node-1'\n[roles]\nexpress = 1\nnormal = 0\narchiver = 0\nledger = 0\n"
    )
    running.send(signal.SIGHUP)
    until(lambda: running.logged("reloaded"))
    rows = until(lambda: running.rows() if len(running.rows()) == 6 else None)
    assert {row.generation for name, row in rows.items() if "express" in name} == {1}
    assert sorted(rows) == ["admin 1", "express 1", "express 2", "ingest 1", "node 1", "notifier 1"]
