"""`smsengine up`: one parent starts everything that runs, and stops it.

It starts in this order: the data directory, the listening sockets (systemd's, when it hands them
over), the simulated provider, the embedded servers, tables and functions, the demo organisation,
the roles. It stops in the reverse order, so that each part has what it needs until it has ended.
When a step fails, the parts before it are stopped, and one sentence says why. On SIGHUP the
configuration is read again (see `reload` and `rolling`). Killed (-9) at any instruction: the
kernel ends every process with it, and the next start finds or mends what is there.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import secrets
import signal
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import msgspec
import structlog

from engine import api_keys
from engine.boot import fence, run_role
from engine.config import Config, Role, load
from engine.config.addresses import is_address, split_listen
from engine.errors import ConfigError
from engine.logs.journal import in_journal
from engine.logs.telemetry import configure_logs
from engine.nodes.records import NodeWish
from engine.providers.settings import SimulatedSettings, needs_simulator
from supervisor import reload, welcome
from supervisor.datadir import (
    ADMIN_KEY,
    DEFAULT,
    DEMO_API_KEY,
    NUMBERS_KEY,
    RUNNING,
    DataDir,
    read_secret,
    running_text,
)
from supervisor.embedded.servers import Server, start_all
from supervisor.listening import listeners, reach
from supervisor.prepare import (
    MIGRATE_S,
    Prepared,
    migrate,
    prepare_demo,
    with_simulator,
    with_urls,
    without_url,
)
from supervisor.process.keeper import Keeper
from supervisor.process.ports import Watched
from supervisor.process.resources import confirm_cpus
from supervisor.process.signals import MEANINGLESS
from supervisor.process.systemd import Notifier, take_listeners, take_notifier
from supervisor.running import Running
from supervisor.simulator import Simulator, start_simulator

_SERVER_STOP_S = 20.0
# Longest that all parts before the roles take to start, and to stop again, seconds.
_START_S, _STOP_S = 120.0, 4 * _SERVER_STOP_S
log = structlog.get_logger("up")


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the command line asks for."""

    config_file: Path | None = None
    demo: bool = False
    data_dir: Path | None = None
    # "" leaves it to the configuration.
    listen: str = ""
    admin_listen: str = ""
    # Print one line of JSON when ready, instead of words.
    as_json: bool = False


class Stopped(BaseException):
    """SIGTERM or SIGINT before the roles had started."""


def bring_up(wish: Wish) -> int:
    """Run the engine until a signal stops it. Returns the exit code, as `Keeper.run` does.

    A signal before the roles have started ends the start: 0. Raises ConfigError when it cannot
    start as it is configured, ChildFailed when a step before the roles failed.
    """
    configure_logs(as_json=False)
    notifier, inherited = take_notifier(os.environ), take_listeners(os.environ)
    config = _configured(wish)
    configure_logs(config.logs.format == "json", config.logs.level)
    given = {"": ("--listen", wish.listen), "admin": ("--admin-listen", wish.admin_listen)}
    for name, (option, address) in given.items():
        if address and name in inherited:
            raise ConfigError(f"{option} must be left out: systemd hands over the socket to listen on.")
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_stoppable(notifier))
            return _run(wish, config, stack, notifier, inherited)
    except Stopped:
        return 0


def _configured(wish: Wish) -> Config:
    """The configuration as file and command line give it, without URLs of embedded servers.

    Raises ConfigError.
    """
    config = load(wish.config_file) if wish.config_file else Config()
    if wish.listen:
        if not split_listen(wish.listen):
            raise ConfigError(f"--listen must be HOST:PORT, not {wish.listen!r}.")
        config = msgspec.structs.replace(
            config, http=msgspec.structs.replace(config.http, listen=wish.listen)
        )
    if wish.admin_listen:
        if not is_address(wish.admin_listen):
            raise ConfigError(
                f"--admin-listen must be HOST:PORT, or unix: and an absolute path, not {wish.admin_listen!r}."
            )
        config = msgspec.structs.replace(
            config, admin=msgspec.structs.replace(config.admin, listen=wish.admin_listen)
        )
    if not config.providers and wish.demo:
        # So that a receiver on this machine can be tried; `examples/webhook_receiver.py` is one.
        notifier = msgspec.structs.replace(config.notifier, allow_private=True)
        simulated = [SimulatedSettings(name="simulated")]
        config = msgspec.structs.replace(config, providers=simulated, notifier=notifier)
    if not config.providers and config.roles.express + config.roles.normal > 0:
        raise ConfigError(
            "No SMS provider is configured; add a [[providers]] section with name and type to the file given "
            "with --config, or use --demo for a simulated one."
        )
    confirm_cpus(config.processes.cpus)
    data_dir = wish.data_dir or Path(config.data_dir or DEFAULT)
    return msgspec.structs.replace(config, data_dir=str(data_dir.absolute()))


def _run(
    asked: Wish,
    config: Config,
    stack: contextlib.ExitStack,
    notifier: Notifier,
    inherited: Mapping[str, socket.socket],
) -> int:
    directory = DataDir(Path(config.data_dir))
    directory.claim()
    stack.callback(directory.leave)
    directory.forget_running()
    admin_key_file, admin_key = _admin_key(config, directory)
    sockets = listeners(config, inherited, stack)
    url, admin_url = reach(sockets["ingest"]), reach(sockets["admin"])
    configured, config = config, _with_numbers_key(config, directory)
    notifier.progress("starting the servers", _START_S)
    config, watched = _servers(config, directory, stack)
    log.info("migrating")
    notifier.progress("bringing the tables to this version", MIGRATE_S)
    config, wish = migrate(config, clickhouse_may_be_away=True)
    demo = _demo(config, directory) if asked.demo else None
    simulator_url = next((w.url for w in watched if isinstance(w, WatchedSimulator)), None)
    facts = welcome.Facts(
        url=url,
        admin_url=admin_url,
        api_key=demo.api_key if demo else None,
        admin_key=admin_key,
        organisation=demo.organisation_id if demo else None,
        simulator_url=simulator_url,
    )
    running = Running(
        url=url,
        admin_url=admin_url,
        pid=os.getpid(),
        admin_key_file=str(admin_key_file),
        simulator_url=simulator_url or "",
        config=config,
    )

    stack.callback(directory.forget_running)
    keeper = _keeper(asked, wish, configured, running, facts, directory, sockets, watched, notifier)
    code = keeper.run()
    notifier.progress("stopping the servers", (len(watched) + 1) * _SERVER_STOP_S)
    # Stopping the servers takes a moment and ends by itself: another Ctrl-C must not break it off.
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    return code


def _keeper(
    asked: Wish,
    wish: NodeWish,
    configured: Config,
    running: Running,
    facts: welcome.Facts,
    directory: DataDir,
    sockets: Mapping[Role, socket.socket],
    watched: list[Watched],
    notifier: Notifier,
) -> Keeper:
    """The parent of the roles. `configured` is the configuration as file and command line gave it."""

    def on_ready() -> None:
        directory.write_running(running)
        if in_journal(os.environ):
            # The journal is no place for a key, and nobody pastes commands from it.
            log.info("ready", url=running.url, admin_url=running.admin_url)
            return
        text = facts.as_text(directory.path, configured.admin.console)
        print(facts.as_json() if asked.as_json else text, flush=True)  # noqa: T201

    def on_reload(keeper: Keeper) -> None:
        if asked.config_file is None:
            raise ConfigError("There is no file to read again: the engine was started without --config.")
        read = _configured(asked)
        keeper.reconfigure(reload.carried_on(configured, read, running.config, running.simulator_url))

    def on_reloaded(config: Config) -> tuple[Path, bytes]:
        # Only `smsengine check` and `migrate` read it there.
        text = running_text(msgspec.structs.replace(running, config=config))
        return directory.run / RUNNING, text.encode("ascii")

    return Keeper(
        running.config,
        runner=run_role,
        fencer=fence,
        listeners=sockets,
        on_ready=on_ready,
        on_reload=on_reload,
        on_reloaded=on_reloaded,
        watchers=watched,
        notifier=notifier,
        wish=wish,
        url=running.url,
    )


def _servers(config: Config, directory: DataDir, stack: contextlib.ExitStack) -> tuple[Config, list[Watched]]:
    """Start a server for each store, and the simulator for providers, that have no URL.

    Returns the configuration with all URLs, and the servers that the keeper is to watch.
    `stack` stops them: the stores first, the simulated provider last.
    """
    watched: list[Watched] = []
    simulator = _simulator(config, directory)
    if simulator is not None:
        stack.callback(simulator.stop)
        watched.append(simulator)
        config = with_simulator(config, simulator.url)
    embedded = without_url(config)
    log.info("starting_servers", embedded=", ".join(sorted(embedded)) or "none", data_dir=config.data_dir)
    servers = start_all(directory.path, embedded)
    stack.callback(_stop_all, servers)
    watched += servers.values()
    return with_urls(config, {name: server.url for name, server in servers.items()}), watched


class WatchedSimulator:
    """The simulated provider as the keeper watches it; after a restart it has the same URL."""

    name = "simulator"

    def __init__(self, simulator: Simulator, log_path: Path) -> None:
        self._simulator = simulator
        self._log_path = log_path
        self.url = simulator.url

    def poll(self) -> int | None:
        """Its exit code once it has ended (negative: the signal that ended it), None while it runs."""
        return self._simulator.poll()

    def restart(self) -> None:
        """Start it again at the same port and wait until it serves. Raises EngineError or OSError."""
        self._simulator.stop()
        self._simulator = start_simulator(urlsplit(self.url).netloc, log_path=self._log_path)

    def stop(self) -> None:
        """End it and wait for its end. Does nothing when it has ended."""
        self._simulator.stop()


def _simulator(config: Config, directory: DataDir) -> WatchedSimulator | None:
    """The simulated provider, started; None when the configuration has none without a URL."""
    if not any(map(needs_simulator, config.providers)):
        return None
    logs = directory.path / "logs"
    try:
        logs.mkdir(mode=0o755, exist_ok=True)
        return WatchedSimulator(start_simulator(log_path=logs / "simulator.log"), logs / "simulator.log")
    except OSError as e:
        raise ConfigError(f"{logs} cannot be written: {e.strerror}.") from e


def _admin_key(config: Config, directory: DataDir) -> tuple[Path, str]:
    """The file of the admin key, and the key.

    Unless the configuration names a file, the key is made on first use. Raises ConfigError.
    """
    if not config.http.admin_key_file:
        return directory.secrets / ADMIN_KEY, directory.secret(ADMIN_KEY, api_keys.new_admin_key)
    path = Path(config.http.admin_key_file)
    key = read_secret(path)
    if not key:
        raise ConfigError(f"http.admin_key_file: {path} must hold the admin key.")
    return path, key


def _with_numbers_key(config: Config, directory: DataDir) -> Config:
    """The configuration with the key that recipients' numbers are hashed with, where there is one; it is made
    when it is first needed. Raises ConfigError."""
    activity = config.activity
    if activity.numbers_key_file:
        return config
    if activity.numbers == "hashed":
        directory.secret(NUMBERS_KEY, lambda: secrets.token_urlsafe(32))
    elif not directory.known_secret(NUMBERS_KEY):
        return config
    file = str(directory.secrets / NUMBERS_KEY)
    return msgspec.structs.replace(config, activity=msgspec.structs.replace(activity, numbers_key_file=file))


def _demo(config: Config, directory: DataDir) -> Prepared:
    known = directory.known_secret(DEMO_API_KEY)
    demo = prepare_demo(config, known)
    if demo.api_key != known:
        directory.keep_secret(DEMO_API_KEY, demo.api_key)
    return demo


def _stop_all(servers: dict[str, Server]) -> None:
    """Stop the servers at the same time, for each writes what it has to its own files; returns when all
    have ended."""
    with ThreadPoolExecutor(max(len(servers), 1)) as pool:
        for stopped in [pool.submit(server.stop, _SERVER_STOP_S) for server in servers.values()]:
            stopped.result()
    log.info("servers_stopped")


@contextlib.contextmanager
def _stoppable(notifier: Notifier) -> Iterator[None]:
    """SIGTERM and SIGINT end the start in good order, until the keeper takes the signals itself.

    What would end the process by default, and means nothing yet, is passed over. SIGQUIT shows where each
    thread is.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        # A second signal must not disturb the stop that the first has begun.
        for other in (signal.SIGINT, signal.SIGTERM):
            signal.signal(other, signal.SIG_IGN)
        notifier.stopping(_STOP_S)
        raise Stopped

    # Not SIG_IGN, which the programs of the stores would inherit.
    before = {s: signal.signal(s, lambda *_: None) for s in (signal.SIGHUP, *MEANINGLESS)}
    before |= {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    # Not faulthandler.register: its stack for signals is too small for several that come at once.
    before[signal.SIGQUIT] = signal.signal(signal.SIGQUIT, lambda *_: faulthandler.dump_traceback())
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
