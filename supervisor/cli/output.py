"""Standard output whose reader may go: `smsengine audit | head -1`.

The command then goes on to its end, so that its exit code says what it did or found; what it still prints is
dropped. Without this the code would be that of a command that failed: of an audit, that a unit is missing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


class Output:
    """A text stream that drops what nobody reads any more; all else of it is as it was."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        # Whether the reader has gone.
        self.is_unread = False

    def write(self, text: str) -> int:
        """Write the text, or drop it. Raises OSError for another failure than a reader that has gone."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def write_octets(self, octets: bytes) -> bool:
        """Write octets, or drop them. Returns whether anybody reads. Raises OSError as `write` does."""
        try:
            self._stream.buffer.write(octets)
        except BrokenPipeError:
            self._drop()
        return not self.is_unread

    def flush(self) -> None:
        """Write what is kept back. Raises as `write` does."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _drop(self) -> None:
        # What the stream keeps back goes there too, at the latest when the interpreter ends.
        self.is_unread = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


@contextmanager
def surviving_output() -> Iterator[None]:
    """While it lasts, `sys.stdout` is an Output; at the end it is flushed. Raises OSError as `write` does."""
    stream = sys.stdout
    # None: the caller has closed it, and print does nothing.
    if stream is None:
        yield
        return
    output = Output(stream)
    sys.stdout = output
    try:
        yield
        output.flush()
    finally:
        sys.stdout = stream


def is_unread() -> bool:
    """Whether nobody reads what this process prints."""
    return isinstance(sys.stdout, Output) and sys.stdout.is_unread
