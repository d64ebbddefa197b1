"""Embedded servers: PostgreSQL, Valkey and ClickHouse as children of one parent.

Everything here blocks and leaves nothing behind: no thread, no event loop, no connection.
Call it from the main thread: a server dies with the thread that started it.

What happens under failure:
- the parent is killed: each server gets its stop signal from the kernel; the next start on
  the same data directory waits for whatever is still ending, then stops it by force;
- a server is killed: `poll` shows it; `restart` brings it back on the same port with the same
  password, and what it had acknowledged is there (after a loss of power too, except in
  ClickHouse, which leaves its newest blocks to the kernel);
- a server never answers: ConfigError at the deadline, with its last log line.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Set as AbstractSet
from pathlib import Path

from engine.errors import ConfigError
from supervisor.embedded.process import AGAIN_S, identity, spawn, stop_stray
from supervisor.embedded.recipes import ClickHouse, Postgres, Recipe, Valkey
from supervisor.embedded.server_dir import FREE_AGAIN_BYTES_MIN, ServerDir

# A first start of PostgreSQL on a slow disk takes seconds, recovery may take longer.
READY_S = 60.0
# They are started in this order, the slowest to answer first, so that all start side by side.
_RECIPES: dict[str, type[Postgres] | type[Valkey] | type[ClickHouse]] = {
    "clickhouse": ClickHouse,
    "redis": Valkey,
    "postgres": Postgres,
}


class Server:
    """One embedded server. `launch` begins a start, `wait_ready` waits for its end."""

    def __init__(self, recipe: Recipe, data_dir: Path) -> None:
        self.name = recipe.name
        self._recipe = recipe
        self._place = ServerDir(data_dir, recipe.name)
        self._child: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._password = ""
        self._log_start = 0

    @property
    def url(self) -> str:
        """Where clients connect, with the password."""
        return self._recipe.url(self._port, self._password)

    @property
    def pid(self) -> int:
        """Process of the last start; 0 before the first."""
        return self._child.pid if self._child is not None else 0

    def launch(self) -> None:
        """Begin a start and return. Its directory is claimed from here to `stop`. Raises ConfigError."""
        self._place.claim()
        try:
            stop_stray(self._place, self._recipe.token(self._place), self._recipe.stop_signal)
            self._port = self._place.port()
            self._start(prepare=True)
        except BaseException:
            self._place.leave()
            raise

    def _start(self, *, prepare: bool) -> None:
        place, recipe = self._place, self._recipe
        user = identity(place.data, recipe.programs(), [*recipe.libraries(), place.root])
        if prepare:
            recipe.prepare(place, user)
            self._password = place.password()
        self._log_start = place.log_size()
        output = place.open_log()
        with open(output, "ab"):
            self._child = spawn(
                recipe.command(place, self._port),
                identity=user,
                death_signal=recipe.stop_signal,
                cwd=recipe.folder(place),
                environment=recipe.environment,
                output=output,
                pid_file=place.pid_file,
                goes_first=recipe.goes_first,
            )

    def wait_ready(self, timeout_s: float = READY_S, *, may_move: bool = True) -> None:
        """Return as soon as it answers its protocol.

        When it does not within `timeout_s`, it is stopped and ConfigError is raised. With
        `may_move` it takes another port when somebody has taken this one meanwhile.
        """
        deadline = time.monotonic() + timeout_s
        while not self.answers():
            code = self.poll()
            log = "\n".join(self._place.log_since(self._log_start)) if code is not None else ""
            if code is not None and self._recipe.passing(log) and time.monotonic() < deadline:
                time.sleep(0.1)
                if may_move:
                    self._port = self._place.port()
                self._start(prepare=False)
            elif code is not None or time.monotonic() > deadline:
                self.stop(5.0)
                last = self._place.last_words(self._log_start)
                ended = f"ended at its start (exit code {code})" if code is not None else "does not answer"
                raise ConfigError(f"The embedded {self.name} server {ended}: {last} (see {self._place.log}).")
            time.sleep(0.01)

    def answers(self) -> bool:
        """One probe: whether it serves its protocol now; takes a second at most."""
        try:
            return self.poll() is None and self._recipe.answers(self._port, self._password)
        except OSError:
            return False

    def poll(self) -> int | None:
        """None while it runs, else its exit code (negative: the signal that ended it)."""
        return self._child.poll() if self._child is not None else 0

    def stop(self, timeout_s: float) -> None:
        """Ask it to stop, again after some seconds, and kill it after `timeout_s`. Idempotent."""
        if self._child is not None:
            self._end(self._child, timeout_s)
        self._place.leave()

    def _end(self, child: subprocess.Popen[bytes], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while child.poll() is None:
            left = deadline - time.monotonic()
            child.send_signal(self._recipe.stop_signal if left > 0 else signal.SIGKILL)
            try:
                child.wait(min(left, AGAIN_S) if left > 0 else 5.0)
            except subprocess.TimeoutExpired:
                continue

    def begin_restart(self, timeout_s: float = 10.0) -> None:
        """Start it again on the same data, port and password, and return; `answers` tells when it is ready.

        It is stopped first, within `timeout_s`, if it still runs. Raises ConfigError.
        """
        if self._child is not None:
            self._end(self._child, timeout_s)
        self._place.claim(FREE_AGAIN_BYTES_MIN)
        self._start(prepare=True)

    def restart(self, timeout_s: float = READY_S) -> None:
        """`begin_restart`, then wait until it answers. Raises ConfigError."""
        self.begin_restart(timeout_s)
        self.wait_ready(timeout_s, may_move=False)


def start_all(data_dir: Path, wanted: AbstractSet[str]) -> dict[str, Server]:
    """Start those of "postgres", "redis" and "clickhouse" that are wanted; return when all answer.

    They start side by side. Raises ConfigError; then none of them is left running.
    """
    if unknown := wanted - _RECIPES.keys():
        raise ConfigError(
            f"There is no embedded server {min(unknown)!r}, only {', '.join(sorted(_RECIPES))}."
        )
    servers: dict[str, Server] = {}
    deadline = time.monotonic() + READY_S
    try:
        for name, recipe in _RECIPES.items():
            if name in wanted:
                server = Server(recipe(), data_dir)
                server.launch()
                servers[name] = server
        for server in servers.values():
            server.wait_ready(max(deadline - time.monotonic(), 1.0))
    except BaseException:
        for server in servers.values():
            server.stop(5.0)
        raise
    return servers


def start_redis(data_dir: Path) -> Server:
    """Valkey. Blocks until it answers; raises ConfigError."""
    return start_all(data_dir, {"redis"})["redis"]


def start_clickhouse(data_dir: Path) -> Server:
    """ClickHouse's engine. Blocks until it answers; raises ConfigError."""
    return start_all(data_dir, {"clickhouse"})["clickhouse"]
