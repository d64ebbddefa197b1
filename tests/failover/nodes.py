"""Two nodes on the same stores, each a whole engine with its own supervisor."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from supervisor.embedded.servers import Server, start_all
from supervisor.simulator import Simulator, start_simulator
from tests.system.conftest import COMMAND, READY_S, ROOT, Engine, environment, first_line

_CONFIG = """
shards = 4
node = "{node}"

[postgres]
url = "{postgres}"
[redis]
url = "{redis}"
[clickhouse]
url = "{clickhouse}"

[[providers]]
name = "sim"
type = "simulated"
url = "{simulator}"
"""


@dataclass(kw_only=True)
class Stores:
    """The servers that the nodes share, and the provider that they send to."""

    folder: Path
    servers: Mapping[str, Server]
    simulator: Simulator

    def start(
        self, name: str, *, tree: Path = ROOT, variables: Mapping[str, str] | None = None, more: str = ""
    ) -> Engine:
        """A node with the code of `tree`, or one that ran before again; `variables` are added to its
        environment, and the tables `more` to its configuration."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        config = folder / "smsengine.toml"
        urls = {store: server.url for store, server in self.servers.items()}
        config.write_text(_CONFIG.format(node=name, simulator=self.simulator.url, **urls) + more)
        arguments = ["up", "--demo", "--config", str(config), "--data-dir", str(folder / "data")]
        log = folder / "log"
        with log.open("ab") as stderr:
            process = subprocess.Popen(
                [*COMMAND, *arguments, "--listen", "127.0.0.1:0", "--json"],
                stdout=subprocess.PIPE, stderr=stderr, cwd=tree, start_new_session=True,
                env=environment() | {"PYTHONPATH": str(tree)} | dict(variables or {}),
            )  # fmt: skip
        line = first_line(process, READY_S)
        if not line:
            process.kill()
            raise AssertionError(f"Node {name} did not start; its log ends:\n{log.read_text()[-3000:]}")
        facts = json.loads(line) | {"simulator_url": self.simulator.url}
        # An earlier version answers the admin calls where it answers all others.
        facts.setdefault("admin_url", facts["url"])
        return Engine(process=process, data_dir=folder / "data", log=log, **facts)


@contextmanager
def stores(folder: Path) -> Iterator[Stores]:
    """PostgreSQL, Redis, ClickHouse and a simulated provider."""
    servers = start_all(folder / "stores", {"postgres", "redis", "clickhouse"})
    simulator = start_simulator()
    try:
        yield Stores(folder=folder, servers=servers, simulator=simulator)
    finally:
        simulator.stop()
        for server in servers.values():
            server.stop(10)


def process_of(engine: Engine, role: str) -> int:
    """The id of a role's process on this node, 0 while there is none."""
    for child in Path(f"/proc/{engine.pid}/task/{engine.pid}/children").read_text().split():
        try:
            title = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if f"smsengine: {role} " in title:
            return int(child)
    return 0


def kill(engine: Engine, role: str) -> None:
    """SIGKILL to the role's process on this node; its supervisor replaces it."""
    os.kill(process_of(engine, role), 9)
