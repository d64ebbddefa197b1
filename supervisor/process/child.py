"""A child process from the fork until its role begins, and the parent's side of it.

A child gets rid of everything that it must not share with its parent: signal handlers and
mask, the terminal's input, descriptors of siblings, the random state, the name in `ps`.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import random
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec
import setproctitle
import structlog

from engine.errors import ConfigError, EngineError
from engine.logs.telemetry import write_left_out
from engine.supervision import CANNOT_BOOT, DRAIN_SIGNAL

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_LINE_BYTES_MAX = 4096
_libc = ctypes.CDLL(None, use_errno=True)


class ChildFailed(EngineError):
    """A child of `run_once` did not do its step; the text says why."""


class Child:
    """The parent's end of one child: its process id and the pipe it speaks through."""

    def __init__(self, title: str, pid: int, fd: int) -> None:
        self.title = title
        self.pid = pid
        self.fd = fd
        # Where the child reads what it is asked; None: it reads nothing.
        self.orders_fd: int | None = None
        self.silent = False
        self._rest = b""

    def lines(self) -> list[str]:
        """The whole lines that the child has written since the last call, without their ends.

        Sets `silent` when the child has closed the pipe. Never blocks.
        """
        while not self.silent:
            try:
                piece = os.read(self.fd, 65536)
            except BlockingIOError:
                break
            self.silent = not piece
            self._rest += piece
        *lines, self._rest = self._rest.split(b"\n")
        self._rest = self._rest[-_LINE_BYTES_MAX:]
        return [line.decode(errors="replace") for line in lines]

    def exit_code(self) -> int | None:
        """The exit code once it has ended (negative: the signal that ended it), None while it runs.

        Reaps the child: after an exit code it must not be called again.
        """
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def send(self, signum: int) -> None:
        """Send a signal; a child that has ended ignores it.

        The process id cannot belong to another process: a dead child keeps it until it is reaped.
        """
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signum)

    def ask(self, line: str) -> None:
        """Write a line for the child; one that finds no room, or nobody, is lost. Never blocks."""
        if self.orders_fd is not None:
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                os.write(self.orders_fd, f"{line}\n".encode())

    def close(self) -> None:
        """Close the parent's ends of the pipes, once. The child goes on without a reader."""
        os.close(self.fd)
        if self.orders_fd is not None:
            os.close(self.orders_fd)


def fork_child(title: str, run: Callable[[int], int], forget: Callable[[], None]) -> Child:
    """Fork a child that runs `run(pipe_fd)` and ends with the exit code it returns.

    `forget` is called in the child to close what only its parent needs. Both ends of
    the pipe are non-blocking: a parent that does not read never holds a child up.
    Raises OSError when the system has no room for another process.

    The parent dies before the child has asked for its death signal: the child sees a
    new parent and ends. A signal that reaches the parent during the fork waits for its end.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    # Otherwise parent and child would both write what is still buffered. A reader that has gone, or a full
    # disk, is no reason to start no process.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    parent, pid = os.getpid(), 0
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        try:
            pid = os.fork()
            if pid == 0:
                os.close(reader)
                _live(title, parent, forget, run, writer)
        finally:
            os.close(writer)
            # From here a signal handler of the caller may raise.
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    except BaseException:
        os.close(reader)
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        raise
    return Child(title, pid, reader)


def run_once(function: Callable[[], Any], *, title: str, timeout_s: float) -> Any:
    """Run the function in a child of its own and return what it returned, passed on as JSON.

    So the parent has no client, thread or loop. Raises ConfigError when the function does, and
    ChildFailed when it fails otherwise, dies, or takes longer than `timeout_s` seconds; the child
    is then killed.
    """
    child = fork_child(title, lambda fd: _answer(function, fd), lambda: None)
    reaped = False
    try:
        answer = _read_all(child, time.monotonic() + timeout_s)
        if not answer:
            code = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
            reaped = True
            raise ChildFailed(f"The step {title!r} ended with exit code {code}.")
        kind, value = msgspec.json.decode(answer, type=tuple[str, Any])
    finally:
        if not reaped:
            child.send(signal.SIGKILL)
            os.waitpid(child.pid, 0)
        child.close()
    if kind == "result":
        return value
    raise ConfigError(value) if kind == "config" else ChildFailed(value)


def set_title(title: str) -> None:
    """Name this process `smsengine: <title>` in `ps`, and shorter (15 bytes) in `top`."""
    setproctitle.setproctitle(f"smsengine: {title}")
    _libc.prctl(_PR_SET_NAME, f"sms {title}".encode()[:15], 0, 0, 0)


def _become(title: str, parent: int, forget: Callable[[], None]) -> None:
    """Turn a forked copy of the parent into a process of its own."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    signal.set_wakeup_fd(-1)
    for signum in (signal.SIGCHLD, DRAIN_SIGNAL):
        signal.signal(signum, signal.SIG_DFL)
    # Which of these mean something, the role says when it begins.
    for number in range(signal.SIGRTMIN, signal.SIGRTMAX + 1):
        signal.signal(number, signal.SIG_IGN)
    # A process that hangs is aborted; it then writes where each of its threads is.
    faulthandler.enable()
    faulthandler.register(signal.SIGQUIT)
    # A terminal sends the first ones to the whole group, and systemd sends SIGTERM to the whole unit. The
    # parent decides what they mean, and asks its children to drain by a signal of its own. The others
    # mean nothing, and would end the process by default.
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR2, signal.SIGALRM):
        signal.signal(signum, signal.SIG_IGN)
    forget()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    random.seed()
    set_title(title)
    structlog.contextvars.bind_contextvars(process=title)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _live(
    title: str, parent: int, forget: Callable[[], None], run: Callable[[int], int], pipe_fd: int
) -> NoReturn:
    """Run, and exit. It never returns into the copy of the parent's stack."""
    code = 1
    try:
        _become(title, parent, forget)
        code = run(pipe_fd)
    except EngineError as e:
        code = CANNOT_BOOT if isinstance(e, ConfigError) else 1
        with contextlib.suppress(OSError):
            os.write(pipe_fd, b"failed " + " ".join(str(e).split()).encode()[:2000] + b"\n")
    # No error may return into the copy of the parent's stack.
    except BaseException:
        structlog.get_logger().exception("child_broken", process=title)
    finally:
        with contextlib.suppress(Exception):
            write_left_out(all_of_them=True)
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _answer(function: Callable[[], Any], fd: int) -> int:
    """Write (kind, result or sentence) as JSON to the pipe; kind is result, config or failed."""
    answer: tuple[str, Any]
    try:
        answer = ("result", function())
    except EngineError as e:
        answer = ("config" if isinstance(e, ConfigError) else "failed", str(e))
    os.set_blocking(fd, True)
    rest = memoryview(msgspec.json.encode(answer))
    while rest:
        rest = rest[os.write(fd, rest) :]
    return 0


def _read_all(child: Child, until: float) -> bytes:
    """All bytes that the child writes until it closes the pipe or dies.

    Raises ChildFailed when that is not before `until`, on the monotonic clock, in seconds.
    """
    poll = select.poll()
    poll.register(child.fd, select.POLLIN)
    pieces: list[bytes] = []
    while True:
        left = until - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise ChildFailed(f"The step {child.title!r} took too long and was stopped.")
        if not (piece := os.read(child.fd, 65536)):
            return b"".join(pieces)
        pieces.append(piece)
