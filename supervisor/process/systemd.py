"""What systemd asks of a service: sd_notify(3) and sd_listen_fds(3), without a library.

Both are read from the environment once and taken out of it, so that no child and no
embedded server (PostgreSQL and Valkey both speak sd_notify) answers in our place.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping

from engine.errors import ConfigError

_FIRST_FD = 3


class Notifier:
    """Tells systemd how the service is. Without systemd it says nothing.

    A socket is opened for each datagram: the forking parent owns none. One that cannot
    be sent is dropped; systemd's time-outs and watchdog then judge by its absence.
    """

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        # A leading "@" is a name in the abstract namespace.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        # systemd acts when it has heard nothing for this long; 0: it does not watch.
        self.watchdog_s = watchdog_s

    def ready(self) -> None:
        self._send("READY=1")

    def reloading(self) -> None:
        """To be followed by `ready`."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, within_s: float) -> None:
        """Stopping, and not to be killed for it for `within_s` seconds."""
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(within_s * 1e6)}")

    def status(self, sentence: str) -> None:
        self._send("STATUS=" + " ".join(sentence.split()))

    def watchdog(self) -> None:
        """Alive. To be called more often than every `watchdog_s` seconds."""
        self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                # systemd's queue may be full for a moment; to wait longer would hold everything up.
                sender.settimeout(0.5)
                sender.sendto(text.encode(), self._address)
        except OSError:
            return


def take_notifier(environment: MutableMapping[str, str]) -> Notifier:
    """The notifier the environment asks for. Raises ConfigError on a malformed variable."""
    address = environment.pop("NOTIFY_SOCKET", "")
    watchdog_us = _number(environment, "WATCHDOG_USEC")
    watchdog_pid = _number(environment, "WATCHDOG_PID")
    if address and address[0] not in "/@":
        raise ConfigError("NOTIFY_SOCKET must be a path or a name that begins with @.")
    watched = watchdog_pid in (0, os.getpid())
    return Notifier(address, watchdog_us / 1e6 if watched else 0.0)


def take_listeners(environment: MutableMapping[str, str]) -> list[socket.socket]:
    """The listening sockets that systemd opened for this process; none without systemd.

    Raises ConfigError when one of them is not a listening stream socket.
    """
    pid = _number(environment, "LISTEN_PID")
    count = _number(environment, "LISTEN_FDS")
    environment.pop("LISTEN_FDNAMES", None)
    if pid != os.getpid():
        return []
    return [_listener(fd) for fd in range(_FIRST_FD, _FIRST_FD + count)]


def _listener(fd: int) -> socket.socket:
    wrong = "The systemd socket unit must give one listening stream socket (ListenStream=)."
    try:
        listener = socket.socket(fileno=fd)
    except OSError as e:
        raise ConfigError(wrong) from e
    if listener.type != socket.SOCK_STREAM or not listener.getsockopt(
        socket.SOL_SOCKET, socket.SO_ACCEPTCONN
    ):
        listener.detach()
        raise ConfigError(wrong)
    listener.set_inheritable(False)
    listener.setblocking(False)
    return listener


def _number(environment: MutableMapping[str, str], name: str) -> int:
    text = environment.pop(name, "") or "0"
    if not text.isdecimal():
        raise ConfigError(f"{name} must be a whole number.")
    return int(text)
