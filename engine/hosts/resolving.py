"""The addresses of a host name, without a name that hangs holding up any other.

`loop.getaddrinfo` has few threads for all names (uvloop's: two). A name server that does not answer keeps
each of them for 5 to 30 seconds, so with one provider's name hanging, the connections to all others would
wait.
Here each name has at most one look-up under way, in a thread of its own, and all who ask for the name
share it. There are as many threads as names that hang, and the configuration says how many names there are.

    nobody asked lately     whoever asks waits for the look-up, as long as the caller's time limit allows
    it was found before     an answer of the last `FRESH_S` is given at once; an older one when the look-up
                            takes longer than `PATIENCE_S` or the name servers fail (RFC 8767 allows that)
    there is no such name   OSError, also when there was one before
    given up by the caller  the look-up goes on, and the next one who asks has what it finds
    the process ends        its threads end with it
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
import time
from typing import Any

# How long an answer is good without another look-up, seconds.
FRESH_S = 5.0
# How long a look-up may take before an answer that is known from before is used, seconds.
PATIENCE_S = 0.25

AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]


class _Name:
    """What is known of one name and port."""

    def __init__(self) -> None:
        self.found: list[AddressInfo] = []
        self.found_at_s = 0.0
        self.look_up: asyncio.Future[list[AddressInfo]] | None = None


class Names:
    """Looks names up. One for each process; only on its loop."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, int], _Name] = {}

    async def addresses(self, host: str, port: int) -> list[AddressInfo]:
        """The addresses of `host` for TCP, as getaddrinfo(3) sorts them.

        Raises OSError when there are none or nobody says so, UnicodeError for what can be no name.
        """
        name = self._names.setdefault((host, port), _Name())
        if name.found and time.monotonic() - name.found_at_s < FRESH_S:
            return name.found
        look_up = name.look_up
        if look_up is None or look_up.get_loop() is not asyncio.get_running_loop():
            look_up = self._begin(name, host, port)
        if not name.found:
            return await asyncio.shield(look_up)
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await asyncio.shield(look_up)
        except TimeoutError:
            return name.found
        except socket.gaierror as e:
            if e.errno != socket.EAI_AGAIN:
                raise
            return name.found

    def _begin(self, name: _Name, host: str, port: int) -> asyncio.Future[list[AddressInfo]]:
        """Start the thread of one look-up. Raises OSError when the machine has no room for a thread."""
        loop = asyncio.get_running_loop()
        look_up: asyncio.Future[list[AddressInfo]] = loop.create_future()

        def end(found: list[AddressInfo], error: Exception | None) -> None:
            name.look_up = None
            if look_up.cancelled():
                return
            if error is not None:
                if not isinstance(error, socket.gaierror) or error.errno != socket.EAI_AGAIN:
                    name.found = []
                look_up.set_exception(error)
                # Those who asked may have been given an older answer meanwhile.
                look_up.exception()
                return
            name.found, name.found_at_s = found, time.monotonic()
            look_up.set_result(found)

        def run() -> None:
            found: list[AddressInfo] = []
            error: Exception | None = None
            try:
                found = [*socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
            except (OSError, UnicodeError) as e:
                error = e
            # The loop may have ended meanwhile.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(end, found, error)

        try:
            threading.Thread(target=run, name=f"look-up of {host}", daemon=True).start()
        except RuntimeError as e:
            raise OSError(errno.EAGAIN, f"No thread to look {host} up: {e}") from e
        name.look_up = look_up
        return look_up


NAMES = Names()
