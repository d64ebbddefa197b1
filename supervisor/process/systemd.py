"""What systemd asks of a service: sd_notify(3) and sd_listen_fds(3), without a library.

The variables of both are read once and removed from the environment. Otherwise a child or an
embedded server would answer in our place: PostgreSQL and Valkey both use sd_notify.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager

from engine.clocks.backoff import Backoff
from engine.errors import ConfigError
from engine.written_numbers import is_whole

_FIRST_FD = 3
# What could not be sent is sent again after so long, seconds; twice as long each time, up to the second.
_AGAIN_S, _AGAIN_MAX_S = 0.5, 30.0
_NOT_OURS = (
    "The systemd socket unit must give one listening TCP socket (one ListenStream= with a port), and another "
    "may give one for the admin calls (FileDescriptorName=admin)."
)


class Notifier:
    """Sends systemd the state of the service, a datagram each time. Without systemd it sends nothing.

    It opens a socket for each datagram, so that the forking parent owns none. A datagram that
    cannot be sent is dropped; systemd's time-outs and watchdog then decide without it. But that the service
    is ready, reloads or stops is sent again until it is taken, or is true no more: systemd ends a service
    that never said that it is ready.
    """

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        """`address` is that of systemd's socket, "" without systemd; a leading "@": an abstract name."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        # Longest time without a sign of life before systemd acts, seconds; 0: it has no watchdog.
        self.watchdog_s = watchdog_s
        self._judged_at = -math.inf
        # What could not be sent and is to be sent again, and when, monotonic seconds.
        self._unsent, self._again_at = "", math.inf
        self._again = Backoff(_AGAIN_S, _AGAIN_MAX_S)

    def ready(self) -> None:
        """Notify that the start, or a reload, is over."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """Notify that a reload begins; `ready` must follow."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, within_s: float) -> None:
        """Notify that a stop begins, whose next step takes `within_s` seconds at most."""
        self._tell(f"STOPPING=1\n{_extension(within_s)}")

    def status(self, sentence: str) -> None:
        """Send the line that `systemctl status` shows."""
        self._send(_status(sentence))

    def progress(self, sentence: str, within_s: float) -> None:
        """Send the status line, and that the next step takes `within_s` seconds at most.

        For a start, a reload or a stop: systemd's time-out begins anew.
        """
        self._send(f"{_status(sentence)}\n{_extension(within_s)}")

    def judgement_in_s(self, now: float) -> float:
        """Seconds until `judge` is due, twice in each `watchdog_s`, or when something is to be sent again;
        infinity: never."""
        due_at = self._judged_at + self.watchdog_s / 2 if self.watchdog_s else math.inf
        return min(due_at, self._again_at) - now

    def judge(self, healthy: bool, now: float) -> None:
        """Send a sign of life if the service is healthy. Without one systemd ends and restarts it. Before
        that, send again what could not be sent."""
        if self._unsent:
            self._tell(self._unsent)
        self._judged_at = now
        if healthy:
            self._send("WATCHDOG=1")

    @contextmanager
    def held_up(self, within_s: float) -> Iterator[None]:
        """Make the watchdog wait `within_s` seconds longer while what runs inside blocks the service."""
        if not self.watchdog_s:
            yield
            return
        self._send(f"WATCHDOG_USEC={int((within_s + self.watchdog_s) * 1e6)}\nWATCHDOG=1")
        try:
            yield
        finally:
            self._send(f"WATCHDOG_USEC={int(self.watchdog_s * 1e6)}\nWATCHDOG=1")

    def _tell(self, state: str) -> None:
        """Send a state of the service, which replaces one that is to be sent again."""
        if self._send(state):
            self._unsent, self._again_at = "", math.inf
            self._again.reset()
        else:
            self._unsent, self._again_at = state, time.monotonic() + self._again.next()

    def _send(self, text: str) -> bool:
        """Whether it was sent, or there is nobody to send it to."""
        if not self._address:
            return True
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                # systemd's queue may be full for a moment; a longer wait would hold everything up.
                sender.settimeout(0.5)
                sender.sendto(text.encode(), self._address)
        except OSError:
            return False
        return True


def take_notifier(environment: MutableMapping[str, str]) -> Notifier:
    """The notifier that the environment asks for; its variables are removed from there.

    Raises ConfigError on a malformed variable.
    """
    address = environment.pop("NOTIFY_SOCKET", "")
    watchdog_us = _number(environment, "WATCHDOG_USEC")
    watchdog_pid = _number(environment, "WATCHDOG_PID")
    if address and address[0] not in "/@":
        raise ConfigError("NOTIFY_SOCKET must be a path or a name that begins with @.")
    watched = watchdog_pid in (0, os.getpid())
    return Notifier(address, watchdog_us / 1e6 if watched else 0.0)


def take_listeners(environment: MutableMapping[str, str]) -> dict[str, socket.socket]:
    """The listening sockets that systemd opened for this process: `admin` and "", the public one.

    The variables that name them are removed from the environment. Raises ConfigError when there are two
    of a kind, or one is no listening socket, or a Unix socket that is not for the admin calls.
    """
    pid = _number(environment, "LISTEN_PID")
    count = _number(environment, "LISTEN_FDS")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if pid != os.getpid() or not count:
        return {}
    # What systemd calls a socket without a name of its own is that of its unit, or `unknown`.
    kinds = ["admin" if name == "admin" else "" for name in (names + [""] * count)[:count]]
    if len(set(kinds)) < count:
        raise ConfigError(f"systemd handed over {count} sockets, and two for the same. {_NOT_OURS}")
    return {kind: _inherited(_FIRST_FD + number, kind) for number, kind in enumerate(kinds)}


def _inherited(fd: int, kind: str) -> socket.socket:
    """The listening socket on this descriptor. Raises ConfigError."""
    try:
        listener = socket.socket(fileno=fd)
    except OSError as e:
        raise ConfigError(_NOT_OURS) from e
    families = {socket.AF_INET, socket.AF_INET6} | ({socket.AF_UNIX} if kind == "admin" else set())
    fits = listener.family in families and listener.type == socket.SOCK_STREAM
    if not fits or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        # We do not close a descriptor that is not ours.
        listener.detach()
        raise ConfigError(_NOT_OURS)
    listener.set_inheritable(False)
    listener.setblocking(False)
    return listener


def _status(sentence: str) -> str:
    return "STATUS=" + " ".join(sentence.split())


def _extension(within_s: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={int(within_s * 1e6)}"


def _number(environment: MutableMapping[str, str], name: str) -> int:
    text = environment.pop(name, "") or "0"
    if not is_whole(text):
        raise ConfigError(f"{name} must be a whole number.")
    return int(text)
