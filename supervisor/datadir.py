"""The data directory: who uses it, which layout it has, its secrets, the engine that runs in it.

    format                version of this layout, a decimal number
    lock                  held by the `smsengine up` that uses the directory
    secrets/              keys made here, mode 0600
    run/engine.json       where the running engine is, for the other commands; mode 0600
    postgres/ redis/ ...  the embedded servers' own

The kernel ends the lock (`supervisor.embedded.filelock`) with its holder, however the holder ends.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from engine import text_file
from engine.capacity.costs import CALIBRATION
from engine.errors import ConfigError
from engine.text_file import NotUtf8
from supervisor.embedded import filelock
from supervisor.embedded.server_dir import write_private

# Names of the secrets in the data directory.
ADMIN_KEY = "admin_key"
DEMO_API_KEY = "demo_api_key"
NUMBERS_KEY = "numbers_key"

# The file in `run/` that says where the engine is.
RUNNING = "engine.json"

FORMAT = 1
DEFAULT = Path("data")


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """What a command needs of run/engine.json to talk to the engine; `running.Running` is all of it."""

    url: str
    # Path of the file that holds the admin key.
    admin_key_file: str
    # Where the admin calls are answered: a URL, or unix:/PATH. An engine of an older version writes none.
    admin_url: str = ""


A = TypeVar("A", bound=Address)


def is_made(path: Path) -> bool:
    """Whether there is a data directory here."""
    return (path / "format").exists()


class DataDir:
    """One data directory. Nothing is created before `claim`."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.run = self.path / "run"
        self.secrets = self.path / "secrets"
        self._lock = self.path / "lock"

    def claim(self) -> None:
        """Create the directory where there is none, take its lock and check its format.

        Killed here at any instruction: the next `claim` finds an empty directory or
        a finished one. Raises ConfigError when another smsengine holds the directory, when it
        holds something else or another format, and when it cannot be written.
        """
        with self._writing():
            made = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            if made:
                # Started by root, embedded servers run as an unprivileged user, who must pass through.
                self.path.chmod(0o711 if os.geteuid() == 0 else 0o700)
        # This comes before the lock, so that nothing is written into a directory that is not ours.
        self._check_format()
        with self._writing():
            self._take_lock()
            if not (self.path / "format").exists():
                write_private(self.path / "format", f"{FORMAT}\n")
            self.run.mkdir(mode=0o755, exist_ok=True)
            self.secrets.mkdir(mode=0o700, exist_ok=True)

    def leave(self) -> None:
        """Give the lock back, so that another process can claim it. Does nothing when it is not claimed."""
        filelock.give_back(self._lock)

    def holder(self) -> int | None:
        """Process id of the `smsengine up` that holds the directory now; None: none does."""
        return filelock.holder(self._lock)

    def absence(self) -> ConfigError:
        """The error that says why no engine answers here: it starts, has died, or there is none."""
        holder = self.holder()
        if holder is not None:
            return ConfigError(
                f"The engine in the data directory {self.path} (process {holder}) starts or stops, and takes "
                "no commands meanwhile; try again in a moment."
            )
        if self.has_died():
            return ConfigError(
                f"The engine in the data directory {self.path} has ended without a stop, and no process of "
                "it is left; start it again, and see the last lines of its log."
            )
        return ConfigError(
            f"No running engine is known in the data directory {self.path}; start one with `smsengine up`, "
            "or name one with --data-dir or --url."
        )

    def has_died(self) -> bool:
        """Whether an engine ran here, and has ended without a stop; False also when that is not known."""
        return filelock.is_free(self._lock) and (self.run / "engine.json").exists()

    def secret(self, name: str, make: Callable[[], str]) -> str:
        """The secret of that name; on first use `make` makes it. Raises ConfigError."""
        known = self.known_secret(name)
        if known:
            return known
        made = make()
        self.keep_secret(name, made)
        return made

    def known_secret(self, name: str) -> str:
        """The secret of that name, "" when there is none. Raises ConfigError when it cannot be read."""
        return read_secret(self.secrets / name)

    def keep_secret(self, name: str, value: str) -> None:
        """Write the secret of that name, mode 0600, in place of the one before. Raises ConfigError.

        Killed here: the file holds the old secret or the new one.
        """
        with self._writing():
            write_private(self.secrets / name, value + "\n")

    def write_running(self, running: Address) -> None:
        """Replace run/engine.json in one step, mode 0600. Raises ConfigError."""
        with self._writing():
            write_private(self.run / RUNNING, running_text(running))

    def forget_running(self) -> None:
        """Remove run/engine.json, so that commands look for no engine here; a failure is passed over."""
        with contextlib.suppress(OSError):
            (self.run / RUNNING).unlink()

    def running(self, record: type[A]) -> A | None:
        """run/engine.json as an `Address` or a `Running`; None when it is not there.

        Raises ConfigError when it cannot be read or is not of this version.
        """
        path = self.run / RUNNING
        try:
            return msgspec.json.decode(path.read_bytes(), type=record)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as e:
            raise ConfigError(f"{path} cannot be read: {e.strerror}.") from e
        except msgspec.MsgspecError as e:
            raise ConfigError(f"{path} was written by another version of smsengine; start it anew.") from e

    def _check_format(self) -> None:
        try:
            found = (self.path / "format").read_text(encoding="ascii").strip()
        except FileNotFoundError:
            with self._writing():
                names = {p.name for p in self.path.iterdir()}
            # When it has a format by now, another process has just made it; `_take_lock` finds that out.
            # `make calibrate` may come before the first start.
            if names - {"lost+found", "lock", "format.new", CALIBRATION} and "format" not in names:
                raise ConfigError(
                    f"{self.path} is not empty and no data directory of smsengine; "
                    "name another with --data-dir."
                ) from None
            return
        except (OSError, UnicodeDecodeError) as e:
            reason = e.strerror if isinstance(e, OSError) else "not a number"
            raise ConfigError(f"{self.path / 'format'} cannot be read: {reason}.") from e
        if found != str(FORMAT):
            raise ConfigError(
                f"{self.path} has data format {found[:20]!r} and this smsengine reads only {FORMAT}; use the "
                "version that wrote it, or name another directory with --data-dir."
            )

    def _take_lock(self) -> None:
        try:
            filelock.take(self._lock)
        except filelock.Held as e:
            raise ConfigError(
                f"Another smsengine (process {e.holder}) uses {self.path}; stop it or name another directory "
                "with --data-dir."
            ) from e

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise ConfigError(
                f"The data directory {self.path} cannot be used: {e.strerror}; name another with --data-dir."
            ) from e


def read_secret(path: Path) -> str:
    """The secret in a file, "" when there is no file. Raises ConfigError when it cannot be read."""
    try:
        return text_file.read(path).strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, NotUtf8) as e:
        reason = e.strerror if isinstance(e, OSError) else e
        raise ConfigError(f"The key file {path} cannot be read: {reason}.") from e


def running_text(running: Address) -> str:
    """The content of run/engine.json."""
    # It escapes what is not ASCII, for example in paths.
    return json.dumps(msgspec.to_builtins(running), indent=2) + "\n"
