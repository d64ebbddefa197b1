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


def loaded_by(program: str) -> set[str]:
    """The names of all modules that are loaded at the end of a Python program."""
    command = [
        sys.executable,
        "-c",
        f"import sys\n{program}\nsys.stderr.write('loaded ' + ' '.join(sys.modules))",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stderr.rpartition("loaded ")[2].split())


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_that_only_talk_http_load_no_role_no_store_and_no_provider(command: list[str]) -> None:
    loaded = loaded_by(f"from supervisor.cli import run\nrun({command!r})")
    assert "supervisor.cli.client" in loaded
    assert loaded & HEAVY == set()


def test_the_rules_of_the_supervisor_load_no_role() -> None:
    loaded = loaded_by("import supervisor.process.child_state, supervisor.process.keeper")
    assert not {name for name in loaded if name.startswith(("engine.boot", "engine.stores"))}
