"""Standard output, as all commands write it: what somebody else wrote does nothing to the terminal, and whose
reader has gone is no failure (`smsengine audit | head -1`).

Texts of messages, names, references, answers of providers may have anything in them. A terminal carries out
control characters and what follows an escape: it writes to the clipboard, changes its title, overwrites what
stands above; marks of writing direction turn a line around. So `print`, and every text that `rich` shows, has
them in a form that can be seen. `rich` makes escapes of its own for colours, so its output as a whole is
written as it is. What is data for a program (--json, --csv, an export) is written exactly (`print_exactly`).

When the reader has gone, the command goes on to its end, so that its exit code says what it did or found;
what it still prints is dropped. Without this the code would be that of a command that failed: of an audit,
that a unit is missing.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import rich.text

# C0 but for line ends and tabs, DEL, C1; embeddings, overrides and isolates of writing direction.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# Those, and all that ends a line or begins a column.
_NOT_IN_LINE = re.compile(f"{_UNSEEN.pattern[:-1]}\t\n\u2028\u2029]")


def visible(text: str) -> str:
    """The text with control characters as they are written in a program, such as \\x1b."""
    return _UNSEEN.sub(_written, text)


def visible_in_line(text: str) -> str:
    """As `visible`, for a text that stands in a line with others, such as a cell of a table: line ends and
    tabs are written so too, for what stands behind them would look like a line of ours."""
    return _NOT_IN_LINE.sub(_written, text)


def _written(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class Exactly:
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


class Output:
    """A text stream that writes what is `visible`; `exactly` writes what it is given."""

    def __init__(self, stream: TextIO) -> None:
        self.exactly = Exactly(stream)
        # Where `rich` writes to, whose texts are visible before they have colours.
        self.rich_proxied_file = self.exactly

    def write(self, text: str) -> int:
        """Write the text. Raises OSError as that of `Exactly`."""
        return self.exactly.write(visible(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.exactly, name)


def print_exactly(line: str) -> None:
    """Print a line for a program. Raises OSError as `Exactly.write` does."""
    print(line, file=exact_output(), flush=True)


def exact_output() -> Any:
    """Standard output that nothing is changed in."""
    return sys.stdout.exactly if isinstance(sys.stdout, Output) else sys.stdout


@contextmanager
def surviving_output() -> Iterator[None]:
    """While it lasts, `sys.stdout` is an Output; at the end it is flushed. Raises OSError as `write` does."""
    # Every text that `rich` shows comes through this function, before its width counts.
    setattr(rich.text, "strip_control_codes", visible)  # noqa: B010
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
    return isinstance(sys.stdout, Output) and sys.stdout.exactly.is_unread
