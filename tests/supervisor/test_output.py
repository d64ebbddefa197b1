"""How a command ends that is broken off, or that nobody reads any more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What an audit and a check found, a page of help, and the watch that has no end of its own.
PROGRAM = """
import sys, supervisor.cli as cli
from supervisor.cli.client import Client, Reply
bodies = {
    "/v1/admin/audit": b'{"verdict": "VERDICT", "checks": [], "seconds": 1}',
    "/v1/admin/status": b'{"node": "a", "processes": [{"role": "ledger", "pid": 7}]}',
}
Client.call = lambda self, method, path, *_: Reply(status=200, body=bodies[path.partition("?")[0]])
sys.exit(cli.run(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("verdict", "arguments", "code"),
    [
        ("clean", ["audit"], 0),
        ("clean", ["audit", "--json"], 0),
        ("not_clean", ["audit"], 1),
        ("not_checked", ["audit", "--json"], 3),
        ("", ["status", "--watch", "--interval", "0.1"], 0),
        ("", ["status", "--watch", "--interval", "0.1", "--json"], 0),
        ("", ["--help"], 0),
    ],
)
def test_the_exit_code_is_that_of_what_was_found_also_when_nobody_reads_it(
    verdict: str, arguments: list[str], code: int
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    options = [] if arguments == ["--help"] else ["--url", "http://127.0.0.1:1", "--admin-key", "k"]
    program = PROGRAM.replace("VERDICT", verdict)
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments, *options],
        cwd=ROOT, stdout=writing, stderr=subprocess.PIPE,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (code, "")


# Ctrl-C comes as soon as the first module of ours is loaded: while the commands are.
EARLY = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from supervisor.__main__ import main
main()
"""


def test_ctrl_c_while_it_loads_ends_it_without_a_trace() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EARLY, "--version"], cwd=ROOT, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_ctrl_c_that_is_ignored_stays_ignored() -> None:
    program = f"import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n{EARLY}"
    done = subprocess.run(
        [sys.executable, "-c", program, "--version"], cwd=ROOT, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_the_program_that_is_installed_begins_there() -> None:
    assert 'smsengine = "supervisor.__main__:main"' in (ROOT / "pyproject.toml").read_text()
