"""A supervisor with stand-in roles: real forks, signals, pipes and loops, no stores.

`python -m tests.supervisor.process.keeper_program DIR OPTIONS` with OPTIONS in JSON. Tests steer the
roles by files in DIR, named after the role: `refuse-ROLE` cannot boot, `crash-ROLE` dies before it is
ready, `linger-ROLE` does not drain, `mute-ROLE` is never ready, `grow-ROLE` has 200 MiB, `noisy-ROLE`
logs 2,000 lines; `refuse-server`: the watched server cannot be started again. What operators wish of the
node stands in `wish`, what autoscaling makes of it in `scaled`. SIGUSR2 makes a child's loop hang, while a
thread of it waits. `fence-fails` makes fencing fail. On SIGHUP the configuration becomes that of
`config.toml`. What the children do is appended to DIR/events.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import structlog
import uvloop

from engine.boot.heartbeat import Heartbeat
from engine.config import Config, Logs, ProcessSettings, Role, Roles, load
from engine.config.autoscale import Autoscale
from engine.errors import ConfigError, Unavailable
from engine.logs.telemetry import configure_logs
from engine.nodes.records import NodeWish
from engine.supervision import Pipes
from supervisor.process.child_state import Limits
from supervisor.process.keeper import Keeper
from supervisor.process.systemd import take_listeners, take_notifier

HERE = Path(sys.argv[1])


def record(**event: Any) -> None:
    fd = os.open(HERE / "events", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, json.dumps(event).encode() + b"\n")
    os.close(fd)


def asked(what: str, role: str) -> bool:
    return (HERE / f"{what}-{role}").exists()


def hang() -> None:
    threading.Thread(target=wait_beside, daemon=True).start()
    time.sleep(1000)


def wait_beside() -> None:
    threading.Event().wait()


async def pass_on_wishes(life: Heartbeat) -> None:
    """What operators wish stands in the file `wish`, what autoscaling makes of the node in `scaled`."""
    while True:
        if (HERE / "wish").exists():
            life.wish((HERE / "wish").read_bytes())
        if (HERE / "scaled").exists():
            life.scaled((HERE / "scaled").read_bytes())
        await asyncio.sleep(0.05)


async def live(role: Role, config: Config, name: str, pipes: Pipes, listener: socket.socket | None) -> None:
    life = Heartbeat(pipes.lines_fd, pipes.orders_fd)
    life.start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, hang)
    server = None
    if listener is not None:

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(name.encode())
            writer.close()

        server = await asyncio.start_server(answer, sock=listener)
    if asked("mute", role):
        await asyncio.sleep(1000)
    beat = asyncio.create_task(life.beat())
    wishing = asyncio.create_task(pass_on_wishes(life)) if role == "node" else None
    memory = b"x" * (200 << 20 if asked("grow", role) else 0)
    if role == "express":
        now = config.queues.express.concurrency
        life.follow_concurrency(now, lambda number: record(event="allowed", name=name, concurrency=number))
    life.ready()
    for n in range(2000 if asked("noisy", role) else 0):
        structlog.get_logger().warning("store away", n=n)
    await life.draining.wait()
    record(event="draining", role=role, name=name)
    if asked("linger", role):
        await asyncio.sleep(1000)
    beat.cancel()
    if wishing is not None:
        wishing.cancel()
    if server is not None:
        server.close()
    record(event="drained", role=role, name=name, memory=len(memory))


def run_role(role: Role, config: Config, name: str, pipes: Pipes, listener: socket.socket | None) -> int:
    record(
        event="born", role=role, name=name, pid=os.getpid(), random=random.random(),
        stdin=os.readlink("/proc/self/fd/0"), pipes=pipes,
        listener=listener.fileno() if listener is not None else None, take_over_s=config.take_over_s,
        environment=sorted(os.environ), cpus=sorted(os.sched_getaffinity(0)),
        fds={int(fd): _target(fd) for fd in os.listdir("/proc/self/fd")},
    )  # fmt: skip
    if asked("refuse", role):
        raise ConfigError(f"The setting of {role} must be another.")
    if asked("crash", role):
        return 1
    uvloop.run(live(role, config, name, pipes, listener))
    return 0


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def fence(config: Config, names: list[str]) -> int:
    if (HERE / "fence-fails").exists():
        raise Unavailable("Redis does not answer.")
    record(event="fenced", names=names)
    return 0


class Sleeper:
    """A server to be watched: a process that only sleeps."""

    name = "sleeper"

    def __init__(self) -> None:
        self._pid = 0
        self.restart()

    def poll(self) -> int | None:
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def restart(self) -> None:
        if asked("refuse", "server"):
            raise OSError("There is no room on its disk.")
        self._pid = os.posix_spawn("/bin/sleep", ["sleep", "300"], {})
        record(event="server", pid=self._pid)

    def stop(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def reload(keeper: Keeper) -> None:
    keeper.reconfigure(load(HERE / "config.toml"))


def reloaded(config: Config) -> tuple[Path, bytes]:
    record(event="reloaded", take_over_s=config.take_over_s)
    return HERE / "run" / "engine.json", b"{}"


def main() -> int:
    options = json.loads(sys.argv[2])
    configure_logs(as_json=True)
    notifier, inherited = take_notifier(os.environ), take_listeners(os.environ)
    listener = inherited.get("") or socket.create_server(("127.0.0.1", 0))
    admin = inherited.get("admin") or socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    sleeper = Sleeper() if options.get("server") else None
    keeper = Keeper(
        Config(
            node="node-1",
            data_dir=str(HERE),
            roles=Roles(**options.get("roles", {})),
            autoscale=msgspec.convert(options.get("autoscale", {}), Autoscale),
            processes=ProcessSettings(**options.get("processes", {})),
            logs=Logs(format="json"),
        ),
        runner=run_role,
        fencer=fence,
        listeners={"ingest": listener, "admin": admin},
        on_ready=lambda: print(f"ready {port} {admin.getsockname()[1]}", flush=True),  # noqa: T201
        on_reload=reload,
        on_reloaded=reloaded,
        watchers=[sleeper] if sleeper else [],
        notifier=notifier,
        limits=msgspec.convert(options.get("limits", {}), Limits),
        wish=msgspec.convert(options.get("wish", {}), NodeWish),
    )
    code = keeper.run()
    if sleeper:
        sleeper.stop()
    return code


if __name__ == "__main__":
    sys.exit(main())
