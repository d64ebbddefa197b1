"""What a command loads before it talks: one that only talks HTTP starts without the engine."""

from __future__ import annotations

import subprocess
import sys

import pytest

# The engine's roles and adapters, and the clients and loops that they bring in.
HEAVY = {
    *("engine.api", "engine.boot", "engine.config", "engine.providers", "engine.stores"),
    *("supervisor.prepare", "supervisor.process", "supervisor.simulator", "supervisor.up"),
    *("aiohttp", "asyncpg", "asyncio", "clickhouse_connect", "hiredis", "redis", "structlog", "uvloop"),
}
# Nobody listens there.
NOWHERE = ("--url", "http://127.0.0.1:1")
COMMANDS = [
    ["--help"],
    ["org", "list", "--help"],
    ["plan", "--help"],
    ["send", "--to", "+989121234567", "--text", "hi", "--api-key", "k", *NOWHERE],
    *(
        [*command, "--admin-key", "k", *NOWHERE]
        for command in (
            *(["org", "list"], ["org", "balance", "1"], ["price", "list"], ["price", "set", "+98=2"]),
            *(
                ["provider", "pause", "a"],
                ["provider", "problems"],
                ["route", "list"],
                ["route", "set", "all", "a"],
            ),
            *(["status"], ["audit"], ["changes"], ["admin-key", "list"]),
        )
    ),
]


# Runs each command in a process of its own, and prints what it has loaded at its end on a line.
RUN_EACH = """
import os, sys
from supervisor.cli import run
for command in eval(sys.argv[1]):
    sys.stderr.flush()
    if os.fork() == 0:
        out = os.dup(1)
        os.dup2(2, 1)
        try:
            run(command)
        finally:
            os.write(out, (" ".join(sys.modules) + "\\n").encode())
            os._exit(0)
    os.wait()
"""


def loaded_by(program: str, *arguments: str) -> list[set[str]]:
    """The names of all modules, a set for each line that a Python program prints."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [set(line.split()) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """By each command: in a copy of a process that has imported no more than every command does."""
    found = loaded_by(RUN_EACH, repr(COMMANDS))
    return {" ".join(command): modules for command, modules in zip(COMMANDS, found, strict=True)}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_that_only_talk_http_load_no_role_no_store_and_no_provider(
    command: list[str], loaded: dict[str, set[str]]
) -> None:
    modules = loaded[" ".join(command)]
    assert "supervisor.cli.client" in modules
    assert modules & HEAVY == set()


def test_the_rules_of_the_supervisor_load_no_role() -> None:
    [loaded] = loaded_by(
        "import sys, supervisor.process.child_state, supervisor.process.keeper; print(*sys.modules)"
    )
    assert not {name for name in loaded if name.startswith(("engine.boot", "engine.stores"))}
