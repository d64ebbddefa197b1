"""The supervisor with real forks, signals and pipes."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

from engine.config import DRAIN_ORDER, ROLES
from tests.supervisor.process.running import Start, alive, until

ONE_OF_EACH = [f"{role} 1" for role in sorted(ROLES)]


def test_it_starts_every_role_says_so_once_and_drains_in_order_with_exit_code_0(start: Start) -> None:
    running = start()
    rows = running.ready()
    assert sorted(rows) == ONE_OF_EACH
    assert running.events("fenced")[0]["names"] == [], "leftovers come first"
    running.send(signal.SIGTERM)
    assert running.end() == 0
    assert running.stdout.count("ready") == 1
    assert [e["role"] for e in running.events("drained")] == list(DRAIN_ORDER)
    assert not any(alive(row.pid) for row in rows.values())
    assert running.fenced() == [], "who drained needs no fence"
    assert not (running.here / "run" / "processes.json").exists()


def test_a_killed_child_is_replaced_and_fenced_by_its_name_and_the_others_are_untouched(start: Start) -> None:
    running = start(roles={"express": 2})
    rows = running.ready()
    victim = rows["express 2"]
    os.kill(victim.pid, signal.SIGKILL)
    successor = running.successor(victim)
    assert successor.restarts == 1
    assert successor.name.startswith("node-1.express.")
    until(lambda: running.fenced() == [victim.name])
    others = {title: row.pid for title, row in running.rows().items() if title != "express 2"}
    assert others == {title: row.pid for title, row in rows.items() if title != "express 2"}


def test_a_fence_that_fails_is_repeated_until_it_succeeds_and_the_restart_does_not_wait(start: Start) -> None:
    running = start(roles={"normal": 0, "archiver": 0, "ledger": 0})
    victim = running.ready()["express 1"]
    (running.here / "fence-fails").touch()
    os.kill(victim.pid, signal.SIGKILL)
    running.successor(victim)
    until(lambda: len(running.logged("fence_failed")) >= 2)
    assert running.logged("fence_failed")[0]["why"] == "Redis does not answer."
    (running.here / "fence-fails").unlink()
    until(lambda: running.fenced() == [victim.name])


def test_a_child_whose_loop_hangs_is_aborted_shows_where_each_thread_is_and_is_replaced(start: Start) -> None:
    running = start(roles={"normal": 0, "archiver": 0}, limits={"beat_s": 2.0})
    rows = running.ready()
    victim = rows["express 1"]
    os.kill(victim.pid, signal.SIGUSR2)
    running.successor(victim)
    assert [e["code"] for e in running.logged("child_ended")] == [-signal.SIGABRT]
    [stack] = running.logged("child_stack")
    fatal, *threads = re.split(r"(?:Current thread|Thread) 0x\w+.*:", stack["exception"])
    assert fatal.startswith("Fatal Python error: Aborted")
    places = [re.findall(r" in (hang|wait_beside)$", thread, re.MULTILINE) for thread in threads]
    assert [place for place in places if place] == [["wait_beside"], ["hang"]]
    last_words = running.rows()["express 1"].last_words
    assert re.fullmatch(r'It hung and was ended\. It was at File ".*", line \d+ in \w+\.', last_words)
    until(lambda: running.fenced() == [victim.name])
    assert running.rows()["ledger 1"].pid == rows["ledger 1"].pid


def test_a_frozen_child_which_cannot_abort_is_killed_and_replaced(start: Start) -> None:
    running = start(roles={"normal": 0, "archiver": 0}, limits={"beat_s": 1.5, "abort_s": 0.3})
    victim = running.ready()["ingest 1"]
    os.kill(victim.pid, signal.SIGSTOP)
    running.successor(victim)
    until(lambda: running.fenced() == [victim.name])
    assert running.logged("child_ended")[0]["code"] == -signal.SIGKILL


def test_a_child_that_never_becomes_ready_is_replaced(start: Start, tmp_path: Path) -> None:
    (tmp_path / "mute-express").touch()
    running = start(roles={"normal": 0, "archiver": 0, "ledger": 0}, limits={"ready_s": 0.8})
    until(lambda: running.logged("child_abort"))
    (tmp_path / "mute-express").unlink()
    running.ready()


def test_a_role_that_cannot_boot_ends_everything_with_one_plain_sentence(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "refuse-ledger").touch()
    running = start()
    assert running.end() == 1
    plain = [line for line in running.stderr.splitlines() if not line.startswith("{")]
    assert plain == ["smsengine: The setting of ledger must be another."]
    assert running.stdout == ""


def test_a_role_that_dies_before_it_is_ready_again_and_again_ends_the_start(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "crash-normal").touch()
    running = start(limits={"boot_deaths_max": 3})
    assert running.end() == 1
    assert "normal 1 ended 3 times before it was ready." in running.stderr


def test_a_role_that_was_ready_before_is_retried_when_it_cannot_boot(start: Start) -> None:
    running = start(roles={"normal": 0, "archiver": 0})
    victim = running.ready()["ledger 1"]
    (running.here / "refuse-ledger").touch()
    os.kill(victim.pid, signal.SIGKILL)
    until(lambda: len(running.logged("child_failed")) >= 3)
    assert running.logged("child_failed")[0]["why"] == "The setting of ledger must be another."
    (running.here / "refuse-ledger").unlink()
    running.successor(victim)


def test_leftovers_that_cannot_be_fenced_end_the_start_with_a_sentence(start: Start, tmp_path: Path) -> None:
    (tmp_path / "fence-fails").touch()
    running = start(limits={"leftovers_s": 0.5})
    assert running.end() == 1
    assert "could not be fenced within 0.5 s. Redis does not answer." in running.stderr
    assert running.events("born") == []


def test_who_does_not_drain_in_time_is_killed_and_fenced_and_the_exit_code_is_1(start: Start) -> None:
    running = start(limits={"drain_s": 0.5})
    rows = running.ready()
    (running.here / "linger-express").touch()
    running.send(signal.SIGINT)
    assert running.end() == 1
    assert running.fenced() == [rows["express 1"].name]
    drained = [e["role"] for e in running.events("drained")]
    assert drained == [role for role in DRAIN_ORDER if role != "express"]


def test_a_second_signal_kills_everything_at_once(start: Start) -> None:
    running = start()
    rows = running.ready()
    (running.here / "linger-ingest").touch()
    running.send(signal.SIGINT)
    until(lambda: running.events("draining"))
    running.send(signal.SIGINT)
    assert running.end() == 1
    assert not any(alive(row.pid) for row in rows.values())
    assert running.events("drained") == []


def test_ctrl_c_reaches_the_whole_group_and_still_drains_in_order(start: Start) -> None:
    running = start()
    running.ready()
    os.killpg(running.pid, signal.SIGINT)
    assert running.end() == 0
    assert [e["role"] for e in running.events("drained")] == list(DRAIN_ORDER)


def test_sigterm_to_every_process_at_once_still_drains_in_order(start: Start) -> None:
    running = start(roles={"express": 2})
    running.ready()
    # As systemd stops a unit: KillMode=control-group.
    os.killpg(running.pid, signal.SIGTERM)
    assert running.end() == 0
    roles = [e["role"] for e in running.events("drained")]
    assert roles == sorted(roles, key=DRAIN_ORDER.index)
    assert len(roles) == 9
    asked = [e["child"].split()[0] for e in running.logged("child_drain")]
    assert asked == roles, "each was asked by the supervisor, in its turn"
    assert running.fenced() == []


def test_children_die_with_a_supervisor_that_is_killed(start: Start) -> None:
    running = start()
    rows = running.ready()
    running.send(signal.SIGKILL)
    running.end()
    until(lambda: not any(alive(row.pid) for row in rows.values()))
    assert running.rows() == {}, "the file it left behind is not mistaken for a running supervisor"


def test_time_in_which_all_were_frozen_is_not_held_against_the_children(start: Start) -> None:
    running = start(limits={"beat_s": 1.5})
    running.ready()
    os.killpg(running.pid, signal.SIGSTOP)
    time.sleep(2.5)  # The promise is about time going by: longer than `beat_s` and the allowance.
    # The supervisor comes back first, to children that have been silent for too long.
    running.send(signal.SIGCONT)
    until(lambda: running.logged("supervisor_held_up"))
    os.killpg(running.pid, signal.SIGCONT)
    running.send(signal.SIGTERM)
    assert running.end() == 0
    assert len(running.events("drained")) == len(running.events("born")) == 8


def test_the_parent_owns_no_thread_no_loop_and_no_socket_but_those_it_listens_on(start: Start) -> None:
    running = start(roles={"express": 2})
    rows = running.ready()
    assert len(os.listdir(f"/proc/{running.pid}/task")) == 1
    targets = [os.readlink(f"/proc/{running.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{running.pid}/fd")]
    assert sum(t.startswith("socket:") for t in targets) == 2
    assert not [t for t in targets if t.startswith("anon_inode:")], "no epoll, timer or event descriptor"
    # Standard input, the wake-up (two ends) and two pipes per child, that of the disk included.
    assert sum(t.startswith("pipe:") for t in targets) == 1 + 2 + 2 * (len(rows) + 1)


def test_a_child_has_nothing_of_its_parent_or_siblings(start: Start) -> None:
    running = start(roles={"ingest": 2, "express": 2})
    running.ready()
    born = running.events("born")
    assert len({e["name"] for e in born}) == len(born) == 10
    assert len({e["random"] for e in born}) == len(born)
    assert {e["stdin"] for e in born} == {"/dev/null"}
    for event in born:
        fds = {int(fd): target for fd, target in event["fds"].items()}
        mine = {0, 1, 2, *event["pipes"]} | ({event["listener"]} if event["listener"] else set())
        # The descriptor by which the list itself was read is gone when its target is looked up.
        assert {fd for fd, target in fds.items() if target} <= mine
        assert (event["listener"] is not None) == (event["role"] in ("ingest", "admin"))


def test_every_process_is_named_in_ps(start: Start) -> None:
    running = start(roles={"ingest": 2})
    rows = running.ready()
    titles = {"supervisor": running.pid} | {title: row.pid for title, row in rows.items()}
    for title, pid in titles.items():
        assert Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0") == f"smsengine: {title}"
        assert Path(f"/proc/{pid}/comm").read_text().strip() == f"sms {title}"[:15]


def test_a_connection_made_while_ingest_is_replaced_is_answered_by_the_next(start: Start) -> None:
    running = start(roles={"normal": 0, "archiver": 0})
    victim = running.ready()["ingest 1"]
    assert running.ask() == victim.name
    os.kill(victim.pid, signal.SIGKILL)
    until(lambda: not alive(victim.pid))
    assert running.ask() == running.successor(victim).name


def test_an_embedded_server_that_ends_is_restarted(start: Start) -> None:
    running = start(server=True, roles={"normal": 0, "archiver": 0})
    rows = running.ready()
    os.kill(running.events("server")[0]["pid"], signal.SIGKILL)
    until(lambda: len(running.events("server")) == 2)
    assert {t: r.pid for t, r in running.rows().items()} == {t: r.pid for t, r in rows.items()}
    running.send(signal.SIGTERM)
    assert running.end() == 0
