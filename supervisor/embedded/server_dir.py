"""The files of one embedded server below the data directory, and the lock of the parent that owns them.

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
# With less free space a server would not survive its first minutes, bytes; nor would one that starts again
# with less than this, since it first writes what it has to recover.
FREE_BYTES_MIN, FREE_AGAIN_BYTES_MIN = 100 * 1024 * 1024, 20 * 1024 * 1024
# These are below the range from which Linux takes ports for outgoing connections. A port in that
# range would be taken by some client sooner or later, and a probe could even connect to itself.
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

    def claim(self, free_bytes_min: int | None = None) -> None:
        """Make the directories and take the lock; from here on only a stray server can be running here."""
        try:
            for folder, mode in (("logs", 0o755), ("secrets", 0o700), ("run", 0o755)):
                (self.root / folder).mkdir(mode=mode, parents=True, exist_ok=True)
            least = FREE_BYTES_MIN if free_bytes_min is None else free_bytes_min
            # The store may have a disk of its own.
            for place in (self.root, self.data):
                if place.exists() and shutil.disk_usage(place).free < least:
                    raise ConfigError(
                        f"The disk of the data directory {place} has less than "
                        f"{least >> 20} MB free; make room or name another data directory."
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
        """Give the lock back. Idempotent."""
        if self._claimed:
            filelock.give_back(self._lock)
            self._claimed = False

    def password(self) -> str:
        """The password; it is made and kept on first use."""
        kept = self.kept_password()
        if kept is None:
            kept = secrets.token_urlsafe(24)
            self.keep_password(kept)
        return kept

    def kept_password(self) -> str | None:
        """The password that was kept, None when there is none."""
        try:
            return self.secret.read_text(encoding="ascii").strip() or None
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as e:
            raise unusable(self.secret, e) from e

    def keep_password(self, password: str) -> None:
        """Keep this password instead of the one before, if there is one."""
        try:
            write_private(self.secret, password + "\n")
        except OSError as e:
            raise unusable(self.secret, e) from e

    def port(self, *, another: bool = False) -> int:
        """A loopback port that is free now: the kept one, or a new one, which is then kept.

        With `another` the kept one is not considered, because somebody took it between this
        check and the server's own bind.
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
        """Descriptor to append to the log; a log above LOG_BYTES_MAX becomes the older one first."""
        try:
            if self.log.exists() and self.log.stat().st_size > LOG_BYTES_MAX:
                self.log.replace(self.log.with_suffix(".log.1"))
            return os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        except OSError as e:
            raise unusable(self.log, e) from e

    def log_size(self) -> int:
        """Size of the log, bytes; 0 when there is none."""
        return self.log.stat().st_size if self.log.exists() else 0

    def log_since(self, offset: int) -> list[str]:
        """Lines added to the log since it was `offset` bytes long; at most the last 64 KB."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(offset, self.log_size() - 65536))
                return [line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
        except OSError:
            return []

    def last_words(self, offset: int) -> str:
        """The line of the log since `offset` bytes that says best why the server ended."""
        lines = self.log_since(offset)
        fatal = [line for line in lines if "FATAL:" in line or "PANIC:" in line]
        return (fatal or lines or ["it printed nothing"])[-1].rstrip(".")

    def recorded_pid(self) -> int | None:
        """Process id of the last server that was started here, None when none is recorded."""
        try:
            return int(self.pid_file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step, mode 0600. Raises OSError.

    The content is on disk before its name is, so a crash leaves the old file or the new one.
    """
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    new.replace(path)


def port_is_free(port: int) -> bool:
    """Whether a server could bind this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # The servers bind like this: connections of the last run in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def unusable(path: Path, e: OSError | UnicodeDecodeError) -> ConfigError:
    """The error for a path that cannot be used, in one sentence."""
    if isinstance(e, UnicodeDecodeError):
        return ConfigError(f"{path} is damaged: it must hold plain ASCII text.")
    where = e.filename or path
    if e.errno == errno.ENOSPC:
        return ConfigError(f"The disk of {where} is full.")
    return ConfigError(
        f"{where} cannot be used ({(e.strerror or str(e)).lower()}); the data directory must be "
        f"writable by the user who runs the engine."
    )
