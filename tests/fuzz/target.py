"""What is fuzzed: a target gives a function that takes any octets, and raises when a promise is broken."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import uvloop
from structlog.testing import capture_logs

# Raises for an input that breaks a promise; any exception is a finding.
Check = Callable[[bytes], None]


class Target(NamedTuple):
    """One thing that is fuzzed."""

    name: str
    # Inputs that are well formed or nearly, from which others are made.
    seeds: Callable[[], list[bytes]]
    # The function to call with inputs, for as long as the block runs.
    opened: Callable[[], AbstractContextManager[Check]]
    # Words that inputs are made of, besides what the seeds have.
    words: tuple[bytes, ...] = ()
    octets_max: int = 1024


class Bench:
    """An event loop, and what went wrong on it without raising."""

    def __init__(self, loop: asyncio.AbstractEventLoop, logged: list[Any]) -> None:
        self._loop = loop
        self._logged = logged
        self._records: list[str] = []
        loop.set_exception_handler(lambda _, context: self._records.append(str(context)))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run it to its end. Raises what it raises, and AssertionError when a fault was logged meanwhile."""
        return self.look(partial(self._loop.run_until_complete, work))

    def look(self, work: Callable[[], Any]) -> Any:
        """As `run`, for what does not wait."""
        self._logged.clear()
        self._records.clear()
        result = work()
        faults = [e for e in self._logged if e["log_level"] in ("error", "critical") or "exc_info" in e]
        assert not faults, f"logged: {faults}"
        assert not self._records, f"reported: {self._records}"
        return result

    def note(self, record: logging.LogRecord) -> bool:
        """A filter of `logging` that remembers the record."""
        self._records.append(record.getMessage())
        return False


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """A loop as production has it, whose faults are findings."""
    loop = uvloop.new_event_loop()
    with capture_logs() as logged:
        made = Bench(loop, logged)
        listener = logging.Handler(logging.WARNING)
        listener.addFilter(made.note)
        logging.getLogger().addHandler(listener)
        try:
            yield made
        finally:
            logging.getLogger().removeHandler(listener)
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()


class Transport(asyncio.Transport):
    """A connection whose other side is the test: what was written lies in `written`."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False
        # Whether our side wants no octets for now.
        self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return 0


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """The octets in pieces of `size`, each second one a single octet; in one piece when it is 0."""
    if not size:
        yield data
        return
    at = 0
    while at < len(data):
        yield data[at : at + size]
        yield data[at + size : at + size + 1]
        at += size + 1


def printable(sentence: str) -> bool:
    """Whether it is one line that a terminal shows as it is."""
    try:
        sentence.encode()
    except UnicodeEncodeError:
        return False
    return bool(sentence) and not set(sentence) & set("\r\n\0\x1b")
