"""`smsengine export`: the messages of an organisation, or their events, as a file, over the admin API.

A file has its name only when it is whole: until then it is a draft beside it, `.NAME.xxxxxxxx.partial`. When
the export fails or is interrupted, the draft is removed; when the command is killed, it stays, and anybody
may remove it. What goes to standard output and breaks off has an exit code that says so.
"""

from __future__ import annotations

import codecs
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, BinaryIO
from urllib.parse import urlencode

import typer
from rich.console import Console
from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from engine.errors import ConfigError
from supervisor.cli import options
from supervisor.cli.text import counted
from supervisor.cli.times import period
from supervisor.output import Output

# The wait for the first part, while others have their turn, and for each further one, seconds.
_PART_S = 60.0
_QUARTER_S = 900


_Format = StrEnum("_Format", ("CSV", "JSONL", "PARQUET"))
_Rows = StrEnum("_Rows", ("MESSAGES", "EVENTS"))


_Organisation = Annotated[
    int, typer.Argument(metavar="ORGANISATION", min=1, help="Its id: see `smsengine org list`.")
]
_Since = Annotated[
    str, typer.Option(metavar="TIME", help="Accepted from then on: a time, or 30d, 12h, 5m ago.")
]
_Until = Annotated[str | None, typer.Option(metavar="TIME", help="Accepted before then; now if absent.")]
_Queue = Annotated[str, typer.Option(metavar="QUEUE", help="Only those of this queue.")]
_RowsOption = Annotated[_Rows, typer.Option(help="What a row is: a message, or an event of one.")]
_FormatOption = Annotated[
    _Format | None, typer.Option("--format", help="Without it, what the name of the file ends in, else csv.")
]
_OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Where to write; without it, standard output."),
]


@options.admin_options
def export(
    organisation: _Organisation,
    since: _Since = "24h",
    until: _Until = None,
    queue: _Queue = "",
    rows: _RowsOption = _Rows.MESSAGES,
    form: _FormatOption = None,
    output: _OutputOption = None,
    *,
    engine: options.EngineOptions,
) -> None:
    """Write the messages of an organisation that were accepted in a period as CSV, JSON lines or Parquet.

    It may be of any size: it is written as it comes. The file gets its name when
    it is whole. Periods begin and end at quarters of an hour. An organisation gets
    its own with GET /v1/reports/messages.

    [bold]Examples[/bold]

    [cyan]smsengine export 7 --since 30d --output july.parquet[/cyan]
    [cyan]smsengine export 7 --rows events --format jsonl | zstd > events.jsonl.zst[/cyan]
    """
    if engine.as_json and output is None:
        raise ConfigError("--json says what was written to --output, so that must be given too.")
    if output is None and sys.stdout is None:
        raise ConfigError("--output must be given where standard output is closed.")
    form = form or _form_of(output)
    if output is None and form is _Format.PARQUET and sys.stdout.isatty():
        raise ConfigError("--output must be given for parquet, which no terminal can show.")
    from_time, until_time = period(since, until, _QUARTER_S)
    wanted = {
        "from_time": from_time, "until_time": until_time,
        "queue": queue, "rows": rows.value, "format": form.value,
    }  # fmt: skip
    path = f"/v1/admin/organisations/{organisation}/reports/messages?{urlencode(wanted)}"
    parts = engine.admin(_PART_S).parts(path)
    if output is None:
        # A terminal shows the rows themselves.
        with _progress(shown=not sys.stdout.isatty()) as note:
            _write_out(parts, note)
        return
    with _progress(shown=not engine.as_json) as note, _whole_file(output) as file:
        octets = _write(parts, file, note)
    if not engine.print_json({"file": str(output), "bytes": octets}):
        print(f"{output}: {counted(octets, 'byte')}")


def _form_of(output: Path | None) -> _Format:
    """The format that the name of a file ends with; csv if it ends otherwise."""
    end = "" if output is None else output.suffix.removeprefix(".").lower()
    return next((form for form in _Format if form.value == end), _Format.CSV)


def _write_out(parts: Iterator[bytes], note: Callable[[int], None]) -> None:
    """Write to standard output, until nobody reads any more. Raises Refusal, Unavailable, OSError."""
    assert isinstance(sys.stdout, Output)
    if sys.stdout.isatty():
        # A person's, who must not be shown what it would carry out. A character may be in two parts.
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for part in parts:
            sys.stdout.write(decoder.decode(part))
        return
    for part in parts:
        note(len(part))
        if not sys.stdout.write_octets(part):
            return


def _write(parts: Iterable[bytes], file: BinaryIO, note: Callable[[int], None]) -> int:
    """Write to a file; how many octets. Raises Refusal, Unavailable, OSError of the file."""
    octets = 0
    for part in parts:
        file.write(part)
        octets += len(part)
        note(len(part))
    return octets


@contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name, in place of one that has it, when the block ends without an error.

    What is no file, such as a pipe or /dev/null, or a link, such as /dev/stdout, is written to as it is.
    Raises ConfigError when it cannot be written."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        try:
            with _opened(path) as file:
                yield file
        except OSError as e:
            raise _unwritable(path, e) from e
        return
    try:
        # Only its owner may read it, because there are numbers in it.
        place, draft = tempfile.mkstemp(".partial", f".{path.name}.", path.parent)
    except OSError as e:
        raise _unwritable(path, e) from e
    try:
        with open(place, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(path)
    except BaseException as e:
        Path(draft).unlink(missing_ok=True)
        if isinstance(e, OSError):
            raise _unwritable(path, e) from e
        raise


def _opened(path: Path) -> BinaryIO:
    """What is there already and is no file, for writing. Raises ConfigError."""
    try:
        return path.open("wb")
    except OSError as e:
        raise _unwritable(path, e) from e


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"--output {path} cannot be written: {(error.strerror or str(error)).lower()}.")


@contextmanager
def _progress(*, shown: bool) -> Iterator[Callable[[int], None]]:
    """On a terminal, show how much has come, and for how long already; what is given is told how much
    more."""
    console = Console(stderr=True, highlight=False, markup=False)
    progress = Progress(
        SpinnerColumn(), TextColumn("exporting"), DownloadColumn(), TimeElapsedColumn(),
        console=console, transient=True, disable=not (shown and console.is_terminal),
    )  # fmt: skip
    with progress:
        task = progress.add_task("", total=None)
        yield lambda octets: progress.advance(task, octets)
