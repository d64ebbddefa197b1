"""The child that touches the data directory for the supervisor, so that a disk that hangs holds up it alone.

The supervisor orders, and does not wait: a child in a system call that never returns cannot even be killed.
Between orders the child looks after what the embedded Redis writes anew (`supervisor.embedded.rewrites`).

it ends, or is killed       it is logged, and it is forked again, a second later at the earliest, and ordered
                            again what is left
its disk hangs, or it is    `silent_s` says since when; of each file the last content waits, and is written
  frozen                    when the disk answers
the supervisor ends         it reads the end of the pipe and ends; killed, the kernel kills both
the same order twice        a file is written again
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from engine.disk_space import DiskSpace, scarcest
from supervisor.embedded.rewrites import Rewrites
from supervisor.process.child import Child, fork_child

# So much of an order is in the pipe at once. The rest follows.
_PIPE_BYTES = 1 << 20
_AGAIN_S = 1.0
# Longest that an order is waited for: while the disk is well, a file is there when `write` returns.
_WAIT_S = 0.2
_SIZE_BYTES = 4


class _Order(msgspec.Struct, array_like=True):
    # By path, what is to be in the file, None for no file; and its mode.
    files: dict[str, tuple[bytes | None, int]] = {}
    # The data directory whose room is asked for, "" for none.
    look: str = ""


class _Answer(msgspec.Struct, array_like=True):
    # By path, why a file could not be written.
    failures: dict[str, str] = {}
    space: DiskSpace | None = None
    looked: bool = False


class DiskChild:
    """The supervisor's side of the child, which is forked with the first order."""

    def __init__(self, forget: Callable[[], None], log: Any) -> None:
        """`forget` is called in the child to close what only the supervisor needs."""
        self._forget, self._log = forget, log
        self._child: Child | None = None
        # Where orders are written to, and what of the present one did not find room.
        self._orders_fd = -1
        self._unsent = b""
        self._under_way: _Order | None = None
        self._asked_at = 0.0
        self._next = _Order()
        self._fork_at = 0.0
        # Whether one has died before.
        self._replaces = False
        # What the last look has found; None: nothing yet, or there is nothing to look at.
        self.space: DiskSpace | None = None

    def write(self, path: Path, content: bytes | None, mode: int = 0o644) -> None:
        """Have the file replaced in one step; None: removed. A failure is logged."""
        self._next.files[str(path)] = content, mode
        idle = self._under_way is None
        self.turn(time.monotonic())
        if idle:
            self._wait(_WAIT_S)

    def look(self, data_dir: str) -> None:
        """Have the room on the disks of the directory looked at."""
        self._next.look = data_dir

    def silent_s(self, now: float) -> float:
        """For how long the present order has waited for its answer; 0.0: none waits."""
        return now - self._asked_at if self._under_way is not None else 0.0

    def turn(self, now: float) -> None:
        """Hear what has been answered, and order what is to be done. Never blocks."""
        if self._child is not None:
            self._hear(self._child)
        wanted = bool(self._next.files or self._next.look)
        if self._child is None and wanted and now >= self._fork_at:
            self._begin(now)
        if self._child is None:
            return
        if self._under_way is None and wanted:
            self._under_way, self._next, self._asked_at = self._next, _Order(), now
            order = msgspec.msgpack.encode(self._under_way)
            self._unsent = len(order).to_bytes(_SIZE_BYTES, "big") + order
        self._send()

    def close(self) -> None:
        """End the child: once it has done what it was ordered, or at once when its disk hangs."""
        self._wait(1.0)
        child, self._child = self._child, None
        if child is None:
            return
        self._close_ends(child)
        end = time.monotonic() + 1.0
        while child.exit_code() is None:
            if time.monotonic() >= end:
                # In a system call that never returns it cannot die: it is left to the kernel.
                child.send(signal.SIGKILL)
                return
            time.sleep(0.002)

    def forget(self) -> None:
        """Close the supervisor's ends in another child."""
        if self._child is not None:
            self._close_ends(self._child)

    def _close_ends(self, child: Child) -> None:
        child.close()
        os.close(self._orders_fd)

    def _begin(self, now: float) -> None:
        self._fork_at = now + _AGAIN_S
        orders_fd, asking_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(asking_fd, False)
        with contextlib.suppress(OSError):
            # Users may have no room for so large a pipe.
            fcntl.fcntl(asking_fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

        def live(answers_fd: int) -> int:
            os.close(asking_fd)
            return _obey(orders_fd, answers_fd)

        try:
            self._child = fork_child("disk", live, self._forget)
            self._orders_fd = asking_fd
            if self._replaces:
                self._log.info("child_started", child=self._child.title, pid=self._child.pid)
        except OSError as e:
            os.close(asking_fd)
            self._log.error("fork_failed", child="disk", why=e.strerror)
        finally:
            os.close(orders_fd)

    def _send(self) -> None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            while self._unsent:
                self._unsent = self._unsent[os.write(self._orders_fd, self._unsent) :]

    def _hear(self, child: Child) -> None:
        for line in child.lines():
            with contextlib.suppress(msgspec.MsgspecError):
                answer = msgspec.json.decode(line, type=_Answer)
                self._under_way = None
                if answer.looked:
                    self.space = answer.space
                for path, why in answer.failures.items():
                    # A full disk must not end the engine; the next change tries again.
                    self._log.warning("file_not_written", path=path, why=why)
        code = child.exit_code()
        if code is not None:
            self._log.warning("child_ended", child=child.title, pid=child.pid, code=code)
            self._replaces = True
            self._close_ends(child)
            self._child = None
            if self._under_way is not None:
                self._next.files = self._under_way.files | self._next.files
            self._under_way, self._unsent = None, b""

    def _wait(self, seconds: float) -> None:
        """Until what was ordered is done."""
        end = time.monotonic() + seconds
        while self._child is not None and (self._under_way is not None or self._next.files):
            left = end - time.monotonic()
            if left <= 0:
                return
            poll = select.poll()
            poll.register(self._child.fd, select.POLLIN)
            if self._unsent:
                poll.register(self._orders_fd, select.POLLOUT)
            poll.poll(left * 1000)
            self.turn(time.monotonic())


def _obey(orders_fd: int, answers_fd: int) -> int:
    """In the child: do what is ordered, until the supervisor has gone."""
    os.set_blocking(answers_fd, True)
    rewrites: Rewrites | None = None
    with open(orders_fd, "rb") as orders:
        # The next order comes when this one is answered, so nothing of it has been read ahead.
        while size := _next_size(orders, rewrites):
            order = msgspec.msgpack.decode(orders.read(int.from_bytes(size, "big")), type=_Order)
            answer = _Answer()
            for path, (content, mode) in order.files.items():
                try:
                    _replace(Path(path), content, mode)
                except OSError as e:
                    answer.failures[path] = str(e.strerror)
            if order.look:
                answer.space, answer.looked = scarcest(order.look), True
                rewrites = rewrites or Rewrites(Path(order.look))
            os.write(answers_fd, msgspec.json.encode(answer) + b"\n")
    return 0


def _next_size(orders: BinaryIO, rewrites: Rewrites | None) -> bytes:
    """The size of the next order, b"" when the supervisor has gone; until it comes, look after `rewrites`."""
    if rewrites is not None:
        poll = select.poll()
        poll.register(orders, select.POLLIN)
        while not poll.poll(rewrites.turn() * 1000):
            pass
    return orders.read(_SIZE_BYTES)


def _replace(path: Path, content: bytes | None, mode: int) -> None:
    """Raises OSError. It is not synced to the disk: a power failure ends what it describes, too."""
    if content is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode), "wb") as file:
        file.write(content)
    draft.replace(path)
