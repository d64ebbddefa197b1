"""A step that the supervisor has done in a child of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.supervisor.process.running import ROOT, alive, until

PROGRAM = """
import os, sys, time
from engine.errors import ConfigError, Unavailable
from supervisor.process.child import ChildFailed, run_once

def refuse(): raise ConfigError("postgres.url must name a database.")
def wait(): raise Unavailable("PostgreSQL does not answer.")
def vanish(): os._exit(7)
def hang(): open(sys.argv[2], "w").write(str(os.getpid())); time.sleep(1000)
def broken(): raise RuntimeError("a mistake of ours")

STEPS = {
    "value": lambda: {"organisation": 7, "key": "k", "ours": os.getpid() != %s},
    "large": lambda: "x" * 3_000_000,
    "refuse": refuse, "wait": wait, "vanish": vanish, "hang": hang, "broken": broken,
}
try:
    answer = run_once(STEPS[sys.argv[1]], title="migrate", timeout_s=float(sys.argv[3]))
    print(len(answer) if isinstance(answer, str) else answer)
except (ConfigError, ChildFailed) as e:
    print(type(e).__name__, e)
assert len(os.listdir("/proc/self/task")) == 1
assert not [f for f in os.listdir("/proc/self/fd") if int(f) > 3], "the pipe was left open"
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    print("no child left")
""".replace("%s", "PARENT").replace("import os, sys, time", "import os, sys, time\nPARENT = os.getpid()")


def run(step: str, file: Path, timeout_s: float = 20) -> list[str]:
    arguments = [sys.executable, "-c", PROGRAM, step, str(file), str(timeout_s)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    assert last == "no child left"
    return lines


def test_what_the_step_returns_comes_back(tmp_path: Path) -> None:
    assert run("value", tmp_path / "pid") == ["{'organisation': 7, 'key': 'k', 'ours': True}"]


def test_an_answer_larger_than_the_pipe_comes_back_whole(tmp_path: Path) -> None:
    assert run("large", tmp_path / "pid") == ["3000000"]


def test_what_the_operator_must_change_is_raised_as_such(tmp_path: Path) -> None:
    assert run("refuse", tmp_path / "pid") == ["ConfigError postgres.url must name a database."]


def test_another_failure_is_one_sentence(tmp_path: Path) -> None:
    assert run("wait", tmp_path / "pid") == ["ChildFailed PostgreSQL does not answer."]
    assert run("vanish", tmp_path / "pid") == ["ChildFailed The step 'migrate' ended with exit code 7."]


def test_a_step_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    lines = run("hang", tmp_path / "pid", timeout_s=0.7)
    assert lines == ["ChildFailed The step 'migrate' took too long and was stopped."]
    assert not alive(int((tmp_path / "pid").read_text()))


def test_a_mistake_of_ours_is_logged_where_it_happened(tmp_path: Path) -> None:
    lines = run("broken", tmp_path / "pid")
    assert lines[-1] == "ChildFailed The step 'migrate' ended with exit code 1."
    assert any("a mistake of ours" in line for line in lines)


def test_the_step_dies_with_the_process_that_asked_for_it(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", PROGRAM, "hang", str(file), "600"], cwd=ROOT)
    try:
        step = until(lambda: file.read_text() if file.exists() else "")
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        until(lambda: not alive(int(step)))
    finally:
        parent.kill()
        parent.wait()
