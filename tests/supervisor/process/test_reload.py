"""Another configuration while the supervisor runs, with real forks, signals and pipes."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from tests.supervisor.process.running import Running, Start, until

ROLES = "[roles]\nexpress = {express}\nnormal = 1\ningest = 1\n"


def reload(running: Running, take_over_s: float, express: int = 2) -> None:
    """Write a configuration that is told from another by `take_over_s`, and ask for it."""
    text = f"node = 'node-1'\ntake_over_s = {take_over_s}\n{ROLES.format(express=express)}"
    (running.here / "config.toml").write_text(text)
    running.send(signal.SIGHUP)


def settled(running: Running, count: int = 1) -> list[float]:
    """The configurations that all processes came to have, once there are so many."""
    until(lambda: len(running.events("reloaded")) >= count)
    return [event["take_over_s"] for event in running.events("reloaded")]


def test_workers_and_api_are_replaced_and_the_rest_stay(start: Start) -> None:
    running = start(roles={"express": 2})
    before = running.ready()
    reload(running, 50)
    assert settled(running) == [50]
    after = running.ready()
    assert after.keys() == before.keys()
    kept = {title for title in before if before[title].pid == after[title].pid}
    assert kept == {"ledger 1", "archiver 1", "node 1"}
    born = {event["name"]: event for event in running.events("born")}
    assert {born[after[title].name]["take_over_s"] for title in after.keys() - kept} == {50}
    replaced = [before[title].name for title in ("express 1", "express 2", "normal 1", "ingest 1", "admin 1")]
    drained = [event["name"] for event in running.events("drained")]
    assert [name for name in drained if name in replaced] == replaced
    assert running.fenced() == [], "who drains needs no fence"
    (change,) = until(running.changes)
    assert (change.number, change.action, change.outcome) == (1, "reload", "done")
    assert (change.before["take_over_s"], change.after["take_over_s"]) == (60, 50)
    assert "roles.express" not in change.after, "only what differs"


def test_connections_are_answered_all_the_while(start: Start) -> None:
    running = start(roles={"express": 2})
    before = running.ready()
    apis = ("ingest", "admin")
    answered = {role: {running.ask(role)} for role in apis}
    assert answered == {role: {before[f"{role} 1"].name} for role in apis}
    reload(running, 50)
    asked = 1
    while not running.events("reloaded"):
        for role in apis:
            answered[role].add(running.ask(role))
        asked += 1
    after = running.ready()
    for role in apis:
        answered[role].add(running.ask(role))
        assert "" not in answered[role], "one was accepted and not answered"
        assert {before[f"{role} 1"].name, after[f"{role} 1"].name} <= answered[role]
    assert asked > 10


def test_a_configuration_that_cannot_boot_is_undone_and_nothing_was_stopped_for_it(start: Start) -> None:
    running = start(roles={"express": 2})
    before = running.ready()
    (running.here / "refuse-express").touch()
    reload(running, 50)
    assert settled(running) == [60]
    assert running.logged("reload_undone")[0]["why"] == "The setting of express must be another."
    assert {t: r.pid for t, r in running.ready().items()} == {t: r.pid for t, r in before.items()}
    (running.here / "refuse-express").unlink()
    reload(running, 40)
    assert settled(running, 2) == [60, 40]
    undone, done = until(lambda: running.changes() if len(running.changes()) > 1 else None)
    assert (undone.outcome, undone.after) == ("refused", {"why": "The setting of express must be another."})
    assert (done.number, done.before["take_over_s"], done.after["take_over_s"]) == (2, 60, 40)


def test_when_a_later_role_cannot_boot_the_earlier_ones_go_back(start: Start) -> None:
    running = start(roles={"express": 2})
    running.ready()
    (running.here / "refuse-ingest").touch()
    reload(running, 50)
    assert settled(running) == [60]
    born = {event["name"]: event["take_over_s"] for event in running.events("born")}
    assert {born[row.name] for row in running.ready().values()} == {60}
    assert 50 in born.values()


def test_a_file_that_is_wrong_is_one_sentence_in_the_log_and_changes_nothing(start: Start) -> None:
    running = start(roles={"express": 2})
    before = running.ready()
    (running.here / "config.toml").write_text("take_over_s = -1\n[http\n")
    running.send(signal.SIGHUP)
    until(lambda: running.logged("reload_failed"))
    [line] = running.logged("reload_failed")
    assert line["why"].startswith(f"{running.here / 'config.toml'} is not TOML: ")
    reload(running, 50)
    settled(running)
    assert running.ready().keys() == before.keys()


def test_numbers_of_processes_change_with_it(start: Start) -> None:
    running = start(roles={"express": 2})
    running.ready()
    for express in (4, 1):
        reload(running, 50 + express, express=express)
        until(lambda express=express: settled(running)[-1] == 50 + express)  # type: ignore[misc]
        titles = {title for title in running.ready() if title.startswith("express")}
        assert titles == {f"express {n + 1}" for n in range(express)}


def test_a_process_that_dies_meanwhile_is_replaced_and_fenced_and_the_reload_ends(start: Start) -> None:
    running = start(roles={"express": 2})
    victim = running.ready()["normal 1"]
    reload(running, 50)
    os.kill(victim.pid, signal.SIGKILL)
    assert settled(running) == [50]
    until(lambda: running.fenced() == [victim.name])
    born = {event["name"]: event["take_over_s"] for event in running.events("born")}
    assert born[running.ready()["normal 1"].name] == 50


def test_stopped_in_the_middle_it_drains_everything(start: Start) -> None:
    running = start(roles={"express": 2})
    running.ready()
    reload(running, 50)
    until(lambda: len(running.events("born")) > 6)
    running.send(signal.SIGTERM)
    assert running.end() == 0
    assert len(running.events("drained")) == len(running.events("born"))
    with pytest.raises(ConnectionRefusedError), socket.socket() as client:
        client.connect(("127.0.0.1", int(running.stdout.split()[1])))
