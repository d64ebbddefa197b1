"""The terminal of the live view: it draws, takes keys and follows the size.

One thread asks the engine again and again, so that a key is answered also while the engine is not. The
terminal has its own screen meanwhile, and is as before at the end: on q, Ctrl-C, SIGTERM, or when it is
gone. Each picture is one write over the one before, without clearing, so nothing flickers.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from types import FrameType

from rich.console import Console, Group
from rich.live import Live

from engine.errors import EngineError
from supervisor.cli.answers import Status
from supervisor.cli.live.frame import frame
from supervisor.output import exact_output

# Ctrl-C comes as a signal, but for a terminal whose owner has turned that off.
_QUIT = {"q", "Q", "\x03", "\x04"}
# The clock of the picture goes on also without an answer, seconds.
_TICK_S = 1.0
# From this age on the picture says how old it is, seconds.
_OLD_S = 5.0


class Answers:
    """The last answer of the engine, by a thread that asks for it."""

    def __init__(self, ask: Callable[[], Status], interval_s: float, wake: Callable[[], None]) -> None:
        """`ask` blocks, and raises EngineError; `wake` is called after each answer."""
        self._ask, self._interval_s, self._wake = ask, interval_s, wake
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._seen: Status | None = None
        self._at_s = time.monotonic()
        self._failure = ""
        # It may wait for an answer when everything else has ended.
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Ask from now on."""
        self._thread.start()

    def end(self) -> None:
        """Ask no more."""
        self._ended.set()

    def last(self) -> tuple[Status | None, float, str]:
        """(the last answer, its age in seconds, why there is none since; "" when there is)."""
        with self._lock:
            return self._seen, time.monotonic() - self._at_s, self._failure

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                seen, failure = self._ask(), ""
            except EngineError as e:
                seen, failure = None, str(e)
            with self._lock:
                self._failure = failure
                if seen is not None:
                    self._seen, self._at_s = seen, time.monotonic()
            if not self._ended.is_set():
                self._wake()
            self._ended.wait(self._interval_s)


def watch(ask: Callable[[], Status], interval_s: float) -> None:
    """Show what `ask` answers every `interval_s` seconds, until the user has had enough."""
    # Live puts itself in the place of standard output.
    console = Console(file=exact_output(), highlight=False, markup=False)
    with _woken() as (fd, wake), _keys() as keys, _screen(console) as live:
        answers = Answers(ask, interval_s, wake)
        answers.start()
        try:
            while True:
                _draw(console, live, answers)
                ready, _, _ = select.select([fd, *keys], [], [], _TICK_S)
                if fd in ready:
                    os.read(fd, 4096)
                for key in keys:
                    if key in ready and _is_quit(os.read(key, 64)):
                        return
        finally:
            answers.end()


def _is_quit(octets: bytes) -> bool:
    """Whether these keys end the view; no octets: the terminal has gone."""
    return not octets or bool(_QUIT & set(octets.decode(errors="ignore")))


def _draw(console: Console, live: Live, answers: Answers) -> None:
    seen, age_s, failure = answers.last()
    note = f"{age_s:.0f} s old: {failure or 'no answer'}" if age_s > _OLD_S or failure else ""
    if seen is None and not note:
        note = "asking"
    width, height = console.size
    lines = frame(seen or Status(), width=width, height=height, now_us=time.time_ns() // 1000, note=note)
    live.update(Group(*lines), refresh=True)


@contextlib.contextmanager
def _screen(console: Console) -> Iterator[Live]:
    with Live(console=console, screen=True, auto_refresh=False) as live:
        yield live


@contextlib.contextmanager
def _keys() -> Iterator[list[int]]:
    """The keyboard, key by key and unseen; none when standard input is no terminal."""
    if not sys.stdin.isatty():
        yield []
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield [fd]
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _woken() -> Iterator[tuple[int, Callable[[], None]]]:
    """A descriptor that is readable after the function was called, or the size has changed; SIGTERM ends as
    Ctrl-C does."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def wake() -> None:
        # When it is full, who reads wakes anyway; when it is closed, nobody does.
        with contextlib.suppress(OSError):
            os.write(writer, b".")

    def resized(signum: int, frame: FrameType | None) -> None:
        wake()

    def ended(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {s: signal.signal(s, f) for s, f in ((signal.SIGWINCH, resized), (signal.SIGTERM, ended))}
    try:
        yield reader, wake
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        os.close(reader)
        os.close(writer)
