"""Reads messages to send from a CSV or JSONL file of any size, line by line.

A line that cannot be a message is passed on with the reason instead of a draft, so one bad
line never stops the others. Only the engine decides whether a well-formed message is
acceptable: its number, its length, its queue.

Files come as spreadsheets write them: in UTF-8 or UTF-16, with or without a byte order mark, with
comma, semicolon, tab or bar between the columns, and with any line ends. An older encoding must be
named, because a text does not tell which one it is in.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec
import orjson

from engine.errors import ConfigError
from engine.records import DRAFT_FIELDS, MessageDraft
from engine.text_file import HEAD_BYTES, encoding_of
from supervisor.cli.csv_records import Records, column_name, delimiter_of
from supervisor.cli.text import counted

FileFormat = Literal["csv", "jsonl"]
_SUFFIXES: dict[str, FileFormat] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
# How the files of spreadsheet programs begin: a ZIP archive, and what came before it.
_SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
# A formula that spreadsheets are given to keep the digits of a number: ="+4477...".
_FORMULA = re.compile(r'="(.*)"', re.DOTALL)
_NUMBER = re.compile(r"\s*[\"'=]*(\+|00)\d")
_AT = re.compile(r" - at `\$\.([a-z_]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line that is not blank."""

    # From 1, as editors count; for a CSV record of several lines, that of the first.
    number: int
    # None: it is not a message, and `reason` says why.
    draft: MessageDraft | None
    reason: str = ""
    # How much of the file has been read, bytes: the end of this line, or somewhat more.
    position: int = 0


@dataclass(kw_only=True)
class MessageFile:
    """A file of messages; `lines` is iterated over once."""

    path: Path
    format: FileFormat
    # "": UTF-8 or UTF-16, as the file itself tells.
    encoding: str = ""
    # Values of fields that a line leaves out, e.g. {"to": "+98…"}.
    defaults: Mapping[str, str | int] = field(default_factory=dict)
    # Names in the lines read so far that are no fields of a message; they are left out.
    ignored: set[str] = field(default_factory=set)

    def size(self) -> int:
        """Its size, bytes. Raises ConfigError when it cannot be found."""
        try:
            return self.path.stat().st_size
        except OSError as e:
            raise self._unreadable(e) from e

    def lines(self) -> Iterator[Line]:
        """Read it, one `Line` for each line that is not blank.

        Raises ConfigError when the file cannot be read, its CSV header names no `to` or `text`, or
        it breaks off within a character.
        """
        try:
            with self.path.open("rb") as file:
                texts = self._texts(file)
                yield from self._jsonl(texts, file) if self.format == "jsonl" else self._csv(texts, file)
        except OSError as e:
            raise self._unreadable(e) from e
        except UnicodeError as e:
            raise ConfigError(f"{self.path} breaks off within a character, or is not {self.encoding}.") from e

    def _texts(self, file: io.BufferedReader) -> Iterator[str]:
        """The lines, each with its line end: CR, LF or both."""
        head = file.peek(HEAD_BYTES)[:HEAD_BYTES]
        if head.startswith(_SPREADSHEETS):
            raise ConfigError(f"{self.path} is the file of a spreadsheet program; save it as CSV in UTF-8.")
        self.encoding = self.encoding or encoding_of(head)
        # What is not of the encoding must not stop the other lines: see `_line`.
        errors = "surrogatepass" if self.encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"
        try:
            text = io.TextIOWrapper(file, encoding=self.encoding, errors=errors, newline="")
        except LookupError as e:
            raise ConfigError(
                f"--encoding must be one of Python's, such as cp1256, not {self.encoding!r}."
            ) from e
        yield next(text, "").removeprefix("\ufeff")
        yield from text
        # The file is still asked for its position.
        text.detach()

    def _jsonl(self, texts: Iterator[str], file: BinaryIO) -> Iterator[Line]:
        for number, text in enumerate(texts, 1):
            text = text.strip()
            if not text:
                continue
            given, position = _document(text), _position(file)
            if not isinstance(given, dict):
                yield Line(number=number, draft=None, reason="not a JSON object", position=position)
                continue
            # Some writers give null for a field that is not there.
            yield self._line(number, {k: v for k, v in given.items() if v is not None}, position, strict=True)

    def _csv(self, texts: Iterator[str], file: BinaryIO) -> Iterator[Line]:
        records = Records(texts)
        records.delimiter, only_names_it = delimiter_of(records.first_line(), DRAFT_FIELDS)
        if only_names_it:
            records.skip_line()
        header = self._header(records)

        def is_message(cells: list[str]) -> bool:
            number = cells[header.index("to")] if "to" in header and len(cells) == len(header) else ""
            return _NUMBER.match(number) is not None

        records.is_record = is_message
        for record in records:
            number, position = record.number, _position(file)
            if record.reason:
                yield Line(number=number, draft=None, reason=record.reason, position=position)
            elif len(record.cells) > len(header) and any(map(str.strip, record.cells[len(header) :])):
                reason = f"{counted(len(record.cells), 'field')} where the header names {len(header)}"
                yield Line(number=number, draft=None, reason=reason, position=position)
            elif any(map(str.strip, record.cells)):
                yield self._line(number, _given(header, record.cells), position, strict=False)

    def _header(self, records: Records) -> list[str]:
        """The names of the columns. Raises ConfigError when they are not those of messages."""
        first = next((r for r in records if r.reason or any(map(str.strip, r.cells))), None)
        if first is not None and first.reason:
            raise ConfigError(f"{self.path} line {first.number} must name the columns: {first.reason}.")
        header = [column_name(cell) for cell in first.cells] if first is not None else []
        for name in ("to", "text"):
            if name not in header and name not in self.defaults:
                raise ConfigError(
                    f"The first line of {self.path} must name the columns, with {name} among them "
                    f"(allowed: {', '.join(DRAFT_FIELDS)})."
                )
        for name in DRAFT_FIELDS:
            if header.count(name) > 1:
                raise ConfigError(f"The first line of {self.path} must name the column {name} once.")
        return header

    def _line(self, number: int, given: dict[str, object], position: int, *, strict: bool) -> Line:
        self.ignored.update(given.keys() - DRAFT_FIELDS.keys())
        fields = {**self.defaults, **{k: v for k, v in given.items() if k in DRAFT_FIELDS}}
        for name in ("to", "text"):
            if name not in fields:
                return Line(number=number, draft=None, reason=f"{name} is missing", position=position)
        try:
            draft = msgspec.convert(fields, MessageDraft, strict=strict)
            msgspec.json.encode(draft)
        except msgspec.ValidationError as e:
            at = _AT.search(str(e))
            reason = f"{at[1]} must be {DRAFT_FIELDS[at[1]]}" if at else str(e)
            return Line(number=number, draft=None, reason=reason, position=position)
        except UnicodeEncodeError:
            broken = next(name for name, value in fields.items() if not _is_whole(value))
            return Line(number=number, draft=None, reason=self._not_whole(broken), position=position)
        return Line(number=number, draft=draft, position=position)

    def _not_whole(self, name: str) -> str:
        """Why a field has lone surrogates: its octets were not of the encoding, or JSON escaped half a
        character."""
        if self.format == "jsonl":
            return f"{name} is not {self.encoding.upper()}, or has half of a surrogate pair"
        return f"{name} is not {self.encoding.upper()}; name the encoding with --encoding"

    def _unreadable(self, e: OSError) -> ConfigError:
        return ConfigError(f"{self.path} cannot be read: {e.strerror}.")


def _given(header: list[str], cells: list[str]) -> dict[str, object]:
    """The fields of a CSV record by name, without those that are empty."""
    given: dict[str, object] = {}
    for name, cell in zip(header, cells, strict=False):
        formula = _FORMULA.fullmatch(cell) if cell.startswith("=") else None
        value = formula[1] if formula else cell
        # In a text and a reference blanks may be meant.
        value = value if name in ("text", "reference") else value.strip()
        if value:
            given[name] = value.lower() if name == "queue" else value
    return given


def _position(file: BinaryIO) -> int:
    """How much of the file has been read, bytes; 0 for a pipe."""
    try:
        return file.tell()
    except OSError:
        return 0


def _document(text: str) -> object:
    """The value in a line of JSONL; None when it is no JSON.

    The standard library also reads half of a surrogate pair and numbers out of range. No field
    allows those, but then the reason can name the field.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return None


def _is_whole(value: object) -> bool:
    return not isinstance(value, str) or not any("\ud800" <= c <= "\udfff" for c in value)


def format_of(path: Path, named: FileFormat | None) -> FileFormat:
    """The format that was named, or that of the file's suffix. Raises ConfigError when neither is known."""
    found = named or _SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise ConfigError(f"--file {path} must end in .csv or .jsonl, or name the format with --format.")
    return found
