"""Where one embedded server lives below the data directory, and who owns that place.

DATA/<name>/          its data, owned by the user it runs as
DATA/logs/<name>.log  what it prints; one older file beside it
DATA/secrets/<name>   its password, mode 0600, made once
DATA/run/<name>.port  its port, kept while it stays free
DATA/run/<name>.pid   the process, written by the child itself before it becomes the server
DATA/run/<name>.lock  held by the parent that runs it
"""

from __future__ import annotations

import errno
import os
import random
import secrets
import shutil
import socket
from pathlib import Path

from engine.errors import ConfigError
from supervisor.embedded import filelock

LOG_BYTES_MAX = 10 * 1024 * 1024
# Below this a server would not survive its first minutes, bytes.
FREE_BYTES_MIN = 100 * 1024 * 1024
# Below the range from which Linux takes ports for outgoing connections: such a port would
# be taken by somebody's client sooner or later, and a probe could even connect to itself.
PORTS = range(20_000, 32_000)


class ServerDir:
    """The files of one server; every method may raise ConfigError."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root.absolute()
        self.name = name
        self.data = self.root / name
        self.log = self.root / "logs" / f"{name}.log"
        self.secret = self.root / "secrets" / name
        self.run = self.root / "run"
        self.pid_file = self.run / f"{name}.pid"
        self._lock = self.run / f"{name}.lock"
        self._claimed = False

    def claim(self) -> None:
        """Makes the directories and takes the lock; nothing is running here afterwards but strays."""
        try:
            for folder, mode in (("logs", 0o755), ("secrets", 0o700), ("run", 0o755)):
                (self.root / folder).mkdir(mode=mode, parents=True, exist_ok=True)
            if shutil.disk_usage(self.root).free < FREE_BYTES_MIN:
                raise ConfigError(
                    f"The disk of the data directory {self.root} has less than "
                    f"{FREE_BYTES_MIN >> 20} MB free; make room or name another data directory."
                )
            self._take_lock()
        except OSError as e:
            raise unusable(self.root, e) from e

    def _take_lock(self) -> None:
        if self._claimed:
            return
        try:
            filelock.take(self._lock)
        except filelock.Held as e:
            if e.holder == os.getpid():
                raise ConfigError(
                    f"This process already runs {self.name} in the data directory {self.root}."
                ) from e
            raise ConfigError(
                f"The data directory {self.root} is in use by another engine"
                f"{f' (process {e.holder})' if e.holder else ''}; stop it or name another data directory."
            ) from e
        self._claimed = True

    def leave(self) -> None:
        """Gives the lock back. Idempotent."""
        if self._claimed:
            filelock.give_back(self._lock)
            self._claimed = False

    def password(self) -> str:
        """The password, made on first use."""
        kept = self.kept_password()
        if kept is None:
            kept = secrets.token_urlsafe(24)
            self.keep_password(kept)
        return kept

    def kept_password(self) -> str | None:
        try:
            return self.secret.read_text(encoding="ascii").strip() or None
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as e:
            raise unusable(self.secret, e) from e

    def keep_password(self, password: str) -> None:
        try:
            write_private(self.secret, password + "\n")
        except OSError as e:
            raise unusable(self.secret, e) from e

    def port(self, *, another: bool = False) -> int:
        """A loopback port that is free now: the remembered one, or a new one which is then kept.

        `another` passes over the remembered one, which somebody took between this look
        and the server's own bind.
        """
        note = self.run / f"{self.name}.port"
        try:
            kept = int(note.read_text(encoding="ascii"))
        except (OSError, ValueError):
            kept = 0
        if kept and not another and port_is_free(kept):
            return kept
        for port in random.sample(PORTS, 200):
            if port != kept and port_is_free(port):
                try:
                    write_private(note, f"{port}\n")
                except OSError as e:
                    raise unusable(note, e) from e
                return port
        raise ConfigError(f"No loopback port from {PORTS[0]} to {PORTS[-1]} is free for {self.name}.")

    def open_log(self) -> int:
        """Descriptor to append to the log; a log that has grown large becomes the older one."""
        try:
            if self.log.exists() and self.log.stat().st_size > LOG_BYTES_MAX:
                self.log.replace(self.log.with_suffix(".log.1"))
            return os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        except OSError as e:
            raise unusable(self.log, e) from e

    def log_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def log_since(self, offset: int) -> list[str]:
        """Lines that the log has got since it was `offset` bytes long; at most the last 64 KB."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(offset, self.log_size() - 65536))
                return [line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
        except OSError:
            return []

    def last_words(self, offset: int) -> str:
        """The line since then that tells best why the server ended."""
        lines = self.log_since(offset)
        fatal = [line for line in lines if "FATAL:" in line or "PANIC:" in line]
        return (fatal or lines or ["it printed nothing"])[-1].rstrip(".")

    def recorded_pid(self) -> int | None:
        try:
            return int(self.pid_file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None


def write_private(path: Path, text: str) -> None:
    """Replaces a file in one step, mode 0600, on disk before its name is: a crash leaves old or new."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    new.replace(path)


def port_is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the servers bind: connections of the last run in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def unusable(path: Path, e: OSError | UnicodeDecodeError) -> ConfigError:
    """One sentence for a path that cannot be used."""
    if isinstance(e, UnicodeDecodeError):
        return ConfigError(f"{path} is damaged: it must hold plain ASCII text.")
    where = e.filename or path
    if e.errno == errno.ENOSPC:
        return ConfigError(f"The disk of {where} is full.")
    return ConfigError(
        f"{where} cannot be used ({(e.strerror or str(e)).lower()}); the data directory must be "
        f"writable by the user who runs the engine."
    )
