"""`smsengine opt-out`: who wants no messages of an organisation, over the admin API."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from engine import text_file
from engine.clocks.backoff import Backoff
from engine.errors import ConfigError, Refusal, Unavailable
from engine.intake.phone_numbers import e164_in
from engine.intake.records import OptOut
from supervisor.cli import options, show
from supervisor.cli.client import Client
from supervisor.cli.csv_records import Records, column_name, delimiter_of
from supervisor.cli.org_limits import Id
from supervisor.cli.send_file import Interrupted
from supervisor.cli.waiting import counting

app = typer.Typer(
    help="Opt-outs of an organisation: list, add, import, remove. In force within a second.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
_PAGE = 1_000
# So many numbers are sent at once, and at least so many where that takes an engine too long. A repetition
# changes nothing.
_BATCH, _BATCH_MIN = 2_000, 125
# The pauses before a call that had no answer, or 503, is made again: the first, the longest, seconds; and for
# how long an import goes on when none succeeds.
_PAUSE_S, _PAUSE_S_MAX, _PATIENCE_S = 0.2, 10.0, 120.0
_COLUMNS = ("number", "phone", "phone_number", "to", "msisdn", "recipient", "mobile")
# So many lines that cannot be read are named.
_NAMED_MAX = 10

Numbers = Annotated[list[str], typer.Argument(metavar="NUMBER...", help="Phone numbers in E.164.")]


class _Page(msgspec.Struct, frozen=True, kw_only=True):
    opt_outs: list[OptOut]
    next: int | None


class _Numbers(msgspec.Struct, frozen=True, kw_only=True):
    numbers: Sequence[str]


class _Added(msgspec.Struct, frozen=True, kw_only=True):
    added: int


class _Removed(msgspec.Struct, frozen=True, kw_only=True):
    removed: int


@app.command("list")
@options.admin_options
def list_opt_outs(organisation: Id, *, engine: options.EngineOptions) -> None:
    """List who wants no messages of an organisation; with --json one object a line.

    [bold]Example[/bold]

    [cyan]smsengine opt-out list 7[/cyan]
    """
    client = engine.admin()
    found: list[OptOut] = []
    cursor: int | None = 0
    while cursor is not None:
        page = client.get(f"{_path(organisation)}?limit={_PAGE}&cursor={cursor}", _Page)
        for opt_out in page.opt_outs:
            engine.print_json(opt_out)
        found += page.opt_outs
        cursor = page.next
    if not engine.as_json:
        rows = ((o.number, f"{o.since:%Y-%m-%d %H:%M}", o.source) for o in found)
        Console(highlight=False, markup=False).print(
            show.listing(("number", "since", "said by"), rows, none="Nobody has opted out.")
        )


@app.command()
@options.admin_options
def add(organisation: Id, numbers: Numbers, *, engine: options.EngineOptions) -> None:
    """Send nothing of an organisation to these numbers any more. Repeating it changes nothing.

    [bold]Example[/bold]

    [cyan]smsengine opt-out add 7 +4915112345678[/cyan]
    """
    wanted = [_number(number) for number in numbers]
    _print(_add(organisation, wanted, engine.admin()), len(numbers), engine)


@app.command("import")
@options.admin_options
def import_file(
    organisation: Id,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A number a line, or CSV with a column of numbers.")
    ],
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Pass over lines without a phone number, and name them.")
    ] = False,
    *,
    engine: options.EngineOptions,
) -> None:
    """Add all numbers of a file, of any size. Repeating it changes nothing, also after an interruption.

    They are added some at a time, and are in force as they are added. Where the engine is
    busy or a store is away, it goes on when it can, and gives up after two minutes without success.

    The column is called number, phone, to, msisdn, recipient or mobile; without
    a header it is the first. A line without a phone number is named, and nothing
    is added; with [cyan]--skip-bad[/cyan] the others are.

    [bold]Example[/bold]

    [cyan]smsengine opt-out import 7 opt-outs.csv[/cyan]
    """
    numbers, bad = _in_file(file)
    for sentence in bad[:_NAMED_MAX]:
        print(sentence, file=sys.stderr)
    if bad and not skip_bad:
        have = "has" if len(bad) == 1 else "have"
        more = f"{show.counted(len(bad), 'line')} of {file} {have} no phone number; nothing was added"
        raise ConfigError(f"{more}. Correct them, or pass over them with --skip-bad.")
    if not numbers:
        raise ConfigError(f"{file} has no phone numbers.")
    added, is_exact = _add_all(organisation, numbers, engine)
    _print(added, len(numbers), engine, len(bad), is_exact=is_exact)


@app.command()
@options.admin_options
def remove(organisation: Id, numbers: Numbers, *, engine: options.EngineOptions) -> None:
    """Let these numbers have messages of an organisation again.

    [bold]Example[/bold]

    [cyan]smsengine opt-out remove 7 +4915112345678[/cyan]
    """
    body = _Numbers(numbers=[_number(number) for number in numbers])
    removed = engine.admin().post(f"{_path(organisation)}/remove", body, _Removed)
    if not engine.print_json(removed):
        print(f"{show.counted(removed.removed, 'number')} may have messages of the organisation again")


def _path(organisation: int) -> str:
    return f"/v1/admin/organisations/{organisation}/opt-outs"


def _add(organisation: int, numbers: Sequence[str], client: Client) -> int:
    return client.post(_path(organisation), _Numbers(numbers=numbers), _Added).added


def _add_all(organisation: int, numbers: Sequence[str], engine: options.EngineOptions) -> tuple[int, bool]:
    """(how many had not opted out before, whether that is exact and not some more). Raises Refusal,
    Unavailable, Interrupted."""
    client, pauses = engine.admin(), Backoff(_PAUSE_S, _PAUSE_S_MAX)
    added, start, size, is_exact = 0, 0, _BATCH, True
    until_s = time.monotonic() + _PATIENCE_S
    with counting("opting out", len(numbers), shown=not engine.as_json) as note:
        try:
            while start < len(numbers):
                some = numbers[start : start + size]
                try:
                    added += _add(organisation, some, client)
                except Unavailable as e:
                    pause_s = min(_PAUSE_S_MAX, max(e.retry_after, pauses.next()))
                    if time.monotonic() + pause_s > until_s or (not start and _is_nowhere(e)):
                        raise Unavailable(_broken_off(e.detail, start, len(numbers))) from e
                    time.sleep(pause_s)
                    # An attempt without an answer may have added some.
                    size, is_exact = max(_BATCH_MIN, size // 2), False
                    continue
                start += len(some)
                note(len(some))
                size = min(_BATCH, 2 * size)
                pauses.reset()
                until_s = time.monotonic() + _PATIENCE_S
        except KeyboardInterrupt as e:
            raise Interrupted(_broken_off("Interrupted", start, len(numbers))) from e
    return added, is_exact


def _is_nowhere(e: Unavailable) -> bool:
    """Whether there is no engine to ask, so that it is of no use to ask again."""
    return isinstance(e.__cause__, OSError) and not isinstance(e.__cause__, TimeoutError)


def _broken_off(why: str, done: int, wanted: int) -> str:
    of = f"the first {show.number(done)} of {show.counted(wanted, 'number')} are opted out"
    return f"{why.rstrip('.')}; {of}, and the same command adds the rest."


def _print(
    added: int, given: int, engine: options.EngineOptions, bad: int = 0, *, is_exact: bool = True
) -> None:
    if engine.print_json({"added": added, "numbers": given, "bad_lines": bad}):
        return
    if not is_exact:
        new = f"{show.number(added)} of them at least had not before"
        print(f"{show.counted(given, 'number')} opted out; {new}")
        return
    known = f"; {show.number(given - added)} had opted out before" if given > added else ""
    print(f"{show.counted(added, 'number')} opted out{known}")


def _number(text: str) -> str:
    try:
        return e164_in("NUMBER", text)
    except Refusal as e:
        raise ConfigError(e.detail) from e


def _in_file(file: Path) -> tuple[list[str], list[str]]:
    """(the numbers in E.164, once each; a sentence for each line that has none). Raises ConfigError."""
    try:
        text = text_file.read(file)
    except text_file.NotUtf8 as e:
        raise ConfigError(f"{file} must be UTF-8: {e}.") from e
    records = Records(iter(text.splitlines(keepends=True)))
    records.delimiter, only_names_it = delimiter_of(records.first_line(), _COLUMNS)
    if only_names_it:
        records.skip_line()
    numbers: dict[str, None] = {}
    bad = []
    for line, text in _cells(records):
        try:
            numbers[e164_in("the number", text)] = None
        except Refusal as e:
            bad.append(f"line {line}: {e.detail}".replace("`", ""))
    return list(numbers), bad


def _cells(records: Records) -> Iterator[tuple[int, str]]:
    """(line, the cell of the column of numbers) of each record that is not empty."""
    column: int | None = None
    for number, cells, reason in records:
        names = [column_name(cell) for cell in cells]
        if column is None:
            known = [place for place, name in enumerate(names) if name in _COLUMNS]
            column = known[0] if known else 0
            if known:
                continue
        if reason or any(names):
            yield number, cells[column] if len(cells) > column else ""
