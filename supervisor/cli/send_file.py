"""`smsengine send --file`: one run over a file, with its progress while it runs and a summary at its end."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from types import FrameType
from typing import IO

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from engine.errors import ConfigError, EngineError, Refusal
from engine.organisations import Balance
from engine.records import MessageDraft
from supervisor.cli import show
from supervisor.cli.locate import Whereabouts
from supervisor.cli.message_file import MessageFile
from supervisor.cli.sending import NOT_ANSWERED, Sender, SendOutcome, Totals
from supervisor.output import print_exactly


class NotAllSent(EngineError):
    """Messages were refused, or a run ended early; the exit code is 1."""


class Interrupted(NotAllSent):
    """Somebody ended a run early; the exit code is that of Ctrl-C."""


class _RefusedLine(msgspec.Struct, frozen=True, kw_only=True):
    line: int
    code: str
    detail: str
    # The message that was to be sent, so that a corrected file is soon made; None: the line was none.
    message: MessageDraft | None


class _AcceptedLine(msgspec.Struct, frozen=True, kw_only=True):
    line: int
    id: str


class _Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The line that --json prints."""

    accepted: int
    refused: int
    unknown: int
    segments: int
    units: int
    seconds: float
    run_key: str
    complete: bool
    ignored_fields: list[str]
    refused_lines: list[_RefusedLine]


@dataclass(kw_only=True)
class FileRun:
    """One run over a file of messages, and what has come of it so far."""

    source: MessageFile
    # How many refused lines to show at the end.
    limit: int
    # The run key: a run with the same key, file and batch size sends nothing twice.
    key: str
    # Files for refused lines and for accepted ids; None: not written.
    refused: Path | None
    accepted: Path | None
    totals: Totals = field(default_factory=Totals)
    shown: list[_RefusedLine] = field(default_factory=list)
    # Number of the last line that was sent or refused; 0 before the first.
    last_line: int = 0

    def perform(self, where: Whereabouts, batch: int, in_flight: int, as_json: bool) -> None:
        """Send the file to the engine at `where`, `in_flight` batches at once, and print the summary.

        Raises NotAllSent when a line was refused or the run got no answer, Interrupted after a Ctrl-C;
        ConfigError when the file, the engine or the key cannot be used.
        """
        size = self.source.size()
        self._keep_files_apart()
        # This fails at once when no engine listens or the key is wrong, instead of after `patience_s`.
        first = where.customer()
        try:
            first.get("/v1/balance", Balance)
        except Refusal as e:
            # A key that may send need not be good for looking.
            if e.code != "scope_missing":
                raise
        first.close()
        sender = Sender(connect=where.customer, run_key=self.key, batch=batch, in_flight=in_flight)
        began = time.monotonic()
        failure: EngineError | None = None
        try:
            with _interruptible(sender) as interrupted:
                self._send(sender, size)
            failure = Interrupted("Interrupted.") if interrupted else None
        except EngineError as e:
            failure = e
        self._report(time.monotonic() - began, failure is None, as_json)
        if failure is not None:
            raise _stopped_by(failure)(f"{str(failure).rstrip('.')}; {self._rest(batch)}.") from failure
        if self.totals.refused:
            verb = "was" if self.totals.refused == 1 else "were"
            raise NotAllSent(f"{show.counted(self.totals.refused, 'message')} {verb} refused.")

    def _keep_files_apart(self) -> None:
        """Raise ConfigError when a file that is written is one that is read, or the other that is written."""
        written = {"--refused": self.refused, "--accepted": self.accepted}
        paths = {"--file": self.source.path} | {name: path for name, path in written.items() if path}
        for (first, one), (second, other) in combinations(paths.items(), 2):
            if _is_same_file(one, other):
                raise ConfigError(f"{second} must name another file than {first}, not {other}.")

    def _rest(self, batch: int) -> str:
        """What of the file was not sent, and how to go on."""
        if not self.last_line:
            return "nothing was sent"
        again = f"the same command with --run-key {self.key} and --batch {batch} goes on without doubling"
        return f"nothing after line {self.last_line} was sent; {again}"

    def _send(self, sender: Sender, size: int) -> None:
        columns = (
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
            TextColumn("{task.fields[counts]}"), TimeElapsedColumn(),
        )  # fmt: skip
        with (
            _written(self.refused) as refused_file,
            _written(self.accepted) as accepted_file,
            Progress(*columns, console=Console(stderr=True), transient=True) as progress,
        ):
            began = time.monotonic()
            bar = progress.add_task(self.source.path.name, total=size, counts="")
            for outcomes in sender.run(self.source.lines()):
                for outcome in outcomes:
                    self._note(outcome, refused_file, accepted_file)
                every = self.totals.accepted + self.totals.refused
                rate = show.number(int(every / max(time.monotonic() - began, 0.001)))
                counts = (
                    f"{show.number(self.totals.accepted)} accepted, "
                    f"{show.number(self.totals.refused)} refused, {rate}/s"
                )
                done = outcomes[-1].line.position if outcomes else None
                progress.update(bar, completed=done, counts=counts)

    def _note(
        self, outcome: SendOutcome, refused_file: IO[bytes] | None, accepted_file: IO[bytes] | None
    ) -> None:
        self.totals.add(outcome)
        self.last_line = outcome.line.number
        if not outcome.code:
            if accepted_file is not None:
                row = _AcceptedLine(line=outcome.line.number, id=outcome.id)
                accepted_file.write(msgspec.json.encode(row) + b"\n")
            return
        line = _RefusedLine(
            line=outcome.line.number, code=outcome.code, detail=outcome.detail, message=outcome.line.draft
        )
        if outcome.code != NOT_ANSWERED and len(self.shown) < self.limit:
            self.shown.append(line)
        if refused_file is not None:
            refused_file.write(msgspec.json.encode(line) + b"\n")

    def _report(self, seconds: float, complete: bool, as_json: bool) -> None:
        notices = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        if self.source.ignored and not as_json:
            names = ", ".join(sorted(self.source.ignored))
            notices.print(f"smsengine: fields that are no part of a message were left out: {names}.")
        if as_json:
            t = self.totals
            summary = _Summary(
                accepted=t.accepted, refused=t.refused, unknown=t.unknown, segments=t.segments, units=t.units,
                seconds=round(seconds, 3), run_key=self.key, complete=complete,
                ignored_fields=sorted(self.source.ignored), refused_lines=self.shown,
            )  # fmt: skip
            print_exactly(msgspec.json.encode(summary).decode())
            return
        if self.shown:
            rows = ((str(r.line), r.message.to if r.message else "", r.code, r.detail) for r in self.shown)
            notices.print(show.table(("line", "to", "refused", "reason"), rows, frozenset({0})))
            rest = self.totals.refused - len(self.shown)
            if rest:
                notices.print(
                    f"and {show.number(rest)} more" + ("" if self.refused else "; --refused FILE writes all")
                )
        print(show.totals(self.totals, seconds))


def _stopped_by(failure: EngineError) -> type[EngineError]:
    """What a run ends with that `failure` has ended."""
    if isinstance(failure, ConfigError | Refusal):
        return ConfigError
    return Interrupted if isinstance(failure, Interrupted) else NotAllSent


def _is_same_file(one: Path, other: Path) -> bool:
    """Whether to write one would write the other; devices, such as /dev/null, may be given twice."""
    if one.exists() and other.exists():
        return one.is_file() and one.samefile(other)
    return one.resolve() == other.resolve()


@contextlib.contextmanager
def _interruptible(sender: Sender) -> Iterator[list[int]]:
    """Ctrl-C ends the sending in good order and is put into the list; a second one ends it at once."""
    signals: list[int] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        if signals:
            raise KeyboardInterrupt
        signals.append(signum)
        sender.stop()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield signals
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _written(path: Path | None) -> Iterator[IO[bytes] | None]:
    if path is None:
        yield None
        return
    try:
        file = path.open("wb")
    except OSError as e:
        raise ConfigError(f"{path} cannot be written: {e.strerror}.") from e
    with file:
        yield file
