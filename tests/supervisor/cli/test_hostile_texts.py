"""What somebody else wrote does nothing to the terminal, and --json has it to the letter."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from contextlib import redirect_stdout

from rich.console import Console
from rich.text import Text

from supervisor.cli import show
from supervisor.output import print_exactly, surviving_output, visible

# Into the clipboard, another title, up a line and erased, an 8-bit CSI, a bell, a text turned around.
HOSTILE = (
    "\x1b]52;c;aGk=\x07\x1b]0;root\x1b\\\x1b[1A\x1b[2K\x9b31m\r\x08\x7fa\u202eb\u2066c"
    "\u2069[/x][link=file:///]\u061c"
)
SHOWN = (
    r"\x1b]52;c;aGk=\x07\x1b]0;root\x1b\\x1b[1A\x1b[2K\x9b31m\x0d\x08\x7fa\u202eb\u2066c\u2069[/x][link=file:///]"
    "\u061c"
)
UNSEEN = {
    *map(chr, (*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)))
}


def test_what_a_terminal_carries_out_is_seen_and_all_else_is_as_it_was() -> None:
    assert visible(HOSTILE) == SHOWN
    assert not UNSEEN & set(visible("".join(UNSEEN)))
    # Line ends and tabs, scripts, joiners as Persian needs them, and emoji.
    same = "a\tb\nسلام می\u200cروم ñ 👩\u200d👧 \u200e\u200f"
    assert visible(same) == same


def test_prints_and_tables_have_nothing_for_the_terminal_in_them() -> None:
    printed = io.StringIO()
    with redirect_stdout(printed), surviving_output():
        print(f"reference  {HOSTILE}")  # noqa: T201
        console = Console(highlight=False, markup=False, width=400)
        console.print(f"paused ({HOSTILE})")
        console.print(Text(HOSTILE))
        console.print(show.table(("name", HOSTILE), [(HOSTILE, HOSTILE)]))
    assert printed.getvalue().count(SHOWN) == 6
    assert not UNSEEN & set(printed.getvalue())


def test_nothing_that_somebody_wrote_begins_a_line_of_a_table() -> None:
    forged = "spring\nprovider-x\t1,000\u2028captured"
    printed = io.StringIO()
    with redirect_stdout(printed), surviving_output():
        console = Console(highlight=False, markup=False, width=400)
        console.print(show.table(("reference", "messages"), [(forged, "1")]))
    _, _, row = printed.getvalue().splitlines()
    assert row.split() == [r"spring\x0aprovider-x\x091,000\u2028captured", "1"]


def test_what_a_program_reads_is_to_the_letter() -> None:
    printed = io.StringIO()
    with redirect_stdout(printed), surviving_output():
        print_exactly(HOSTILE)
    assert printed.getvalue() == f"{HOSTILE}\n"


_ON_A_TERMINAL = """
from rich.console import Console
from rich.text import Text
from supervisor.output import surviving_output
with surviving_output():
    Console(markup=False).print(Text("styled " + {hostile!r}, style="bold"))
    print({hostile!r})
"""


_CSV_ON_A_TERMINAL = """
from engine.activity.reports import ReportRow
from supervisor.cli.export import _write_out
from supervisor.cli.report import _write_csv
from supervisor.output import surviving_output
with surviving_output():
    octets = "é{hostile}".encode()
    _write_out(iter([octets[:1], octets[1:]]), print)
    _write_csv([ReportRow(status="sent", messages=1, segments=1, units=1, reference="{hostile}")],
               ["reference", "status"])
"""


def on_a_terminal(code: str) -> bytes:
    """What a terminal is told by this code."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=theirs,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "200"},
    ) as process:
        os.close(theirs)
        told = b""
        try:
            while part := os.read(ours, 4096):
                told += part
        except OSError:
            # The other end is closed.
            pass
        assert process.wait(30) == 0
    os.close(ours)
    return told


def test_a_terminal_gets_the_colours_of_the_command_and_no_escape_of_anybody_else() -> None:
    told = on_a_terminal(_ON_A_TERMINAL.format(hostile="\x1b]0;x\x07"))
    assert b"\x1b[1m" in told
    assert b"\x1b]" not in told
    assert told.count(rb"\x1b]0;x\x07") == 2


def test_csv_on_a_terminal_has_no_escape_of_anybody() -> None:
    told = on_a_terminal(_CSV_ON_A_TERMINAL.format(hostile="\\x1b]0;x\\x07"))
    assert b"\x1b" not in told
    assert told.count(rb"\x1b]0;x\x07") == 2
    assert "é".encode() in told
