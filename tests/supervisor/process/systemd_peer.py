"""What systemd does for a service: hears its notifications and hands over a listening socket."""

from __future__ import annotations

import socket
from pathlib import Path

# Run with `python -c`: arguments are the descriptors to hand over, joined by commas, and the program.
AS_SYSTEMD = """
import os, sys
fds = [int(fd) for fd in sys.argv[1].split(",")]
for n, fd in enumerate(fds):
    os.dup2(fd, 3 + n)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": "http"}
os.execv(sys.argv[2], sys.argv[2:])
"""


class Systemd:
    """The end of NOTIFY_SOCKET that systemd holds."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.settimeout(20)
        self.heard: list[str] = []

    def close(self) -> None:
        self._socket.close()

    def hear(self, beginning: str) -> list[str]:
        """Everything said up to the first datagram that begins so, that one included and last."""
        said: list[str] = []
        while not said or not said[-1].startswith(beginning):
            said.append(self._socket.recv(4096).decode())
        self.heard += said
        return said

    def flush(self) -> list[str]:
        """Everything that was said and not heard yet."""
        said: list[str] = []
        self._socket.setblocking(False)
        try:
            while True:
                said.append(self._socket.recv(4096).decode())
        except BlockingIOError:
            return said
        finally:
            self._socket.settimeout(20)
