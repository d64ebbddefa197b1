"""Reads messages to send from a CSV or JSONL file of any size, line by line.

A line that cannot be a message is passed on with the reason instead of a draft, so one bad
line never stops the others. Only the engine decides whether a well-formed message is
acceptable: its number, its length, its queue.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec
import orjson

from engine.errors import ConfigError
from engine.records import MessageDraft

FileFormat = Literal["csv", "jsonl"]
FIELDS = ("to", "text", "from", "queue", "validity", "send_at", "reference")
_SUFFIXES: dict[str, FileFormat] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line that is not blank."""

    # From 1, as editors count; for a CSV record of several lines, that of the last.
    number: int
    # None: it is not a message, and `reason` says why.
    draft: MessageDraft | None
    reason: str = ""
    # Bytes from the start of the file to the end of this line.
    position: int = 0


@dataclass(kw_only=True)
class MessageFile:
    """A file of messages; `lines` is iterated over once."""

    path: Path
    format: FileFormat
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
        it is no CSV from some line on.
        """
        try:
            with self.path.open("rb") as file:
                yield from self._jsonl(file) if self.format == "jsonl" else self._csv(file)
        except OSError as e:
            raise self._unreadable(e) from e

    def _jsonl(self, file: BinaryIO) -> Iterator[Line]:
        position = 0
        for number, raw in enumerate(file, 1):
            position += len(raw)
            raw = raw.removeprefix(_BOM).strip() if number == 1 else raw.strip()
            if not raw:
                continue
            given = _document(raw)
            if not isinstance(given, dict):
                yield Line(number=number, draft=None, reason="not a JSON object", position=position)
                continue
            # Some writers give null for a field that is not there.
            yield self._line(number, {k: v for k, v in given.items() if v is not None}, position, strict=True)

    def _csv(self, file: BinaryIO) -> Iterator[Line]:
        position = 0

        def text() -> Iterator[str]:
            nonlocal position
            for raw in file:
                line = raw if position else raw.removeprefix(_BOM)
                position += len(raw)
                # A line that is not UTF-8 must not stop the others: see `_line`.
                yield line.decode("utf-8", "surrogateescape")

        first = file.readline()
        file.seek(0)
        reader = csv.reader(text(), delimiter=_delimiter(first), strict=True)
        try:
            header = [name.strip().lower() for name in next(reader, [])]
            self._check_header(header)
            for row in reader:
                if not any(cell.strip() for cell in row):
                    continue
                if len(row) > len(header):
                    reason = f"{len(row)} fields where the header names {len(header)}"
                    yield Line(number=reader.line_num, draft=None, reason=reason, position=position)
                    continue
                given: dict[str, object] = {n: v for n, v in zip(header, row, strict=False) if v != ""}
                yield self._line(reader.line_num, given, position, strict=False)
        except csv.Error as e:
            raise ConfigError(f"{self.path} line {reader.line_num} is not CSV: {e}.") from e

    def _check_header(self, header: list[str]) -> None:
        for name in ("to", "text"):
            if name not in header and name not in self.defaults:
                raise ConfigError(
                    f"The first line of {self.path} must name the columns, with {name} among them "
                    f"(allowed: {', '.join(FIELDS)})."
                )

    def _line(self, number: int, given: dict[str, object], position: int, *, strict: bool) -> Line:
        self.ignored.update(given.keys() - set(FIELDS))
        fields = {**self.defaults, **{k: v for k, v in given.items() if k in FIELDS}}
        for name in ("to", "text"):
            if name not in fields:
                return Line(number=number, draft=None, reason=f"{name} is missing", position=position)
        try:
            draft = msgspec.convert(fields, MessageDraft, strict=strict)
            msgspec.json.encode(draft)
        except msgspec.ValidationError as e:
            return Line(number=number, draft=None, reason=str(e), position=position)
        except UnicodeEncodeError:
            # It has a lone surrogate: the line was not UTF-8, or JSON escaped half a character.
            broken = next(name for name, value in fields.items() if not _is_whole(value))
            reason = f"{broken} is not UTF-8, or has half of a surrogate pair"
            return Line(number=number, draft=None, reason=reason, position=position)
        return Line(number=number, draft=draft, position=position)

    def _unreadable(self, e: OSError) -> ConfigError:
        return ConfigError(f"{self.path} cannot be read: {e.strerror}.")


def _document(raw: bytes) -> object:
    """The value in a line of JSONL; None when it is no JSON.

    The standard library also reads half of a surrogate pair and numbers out of range. No field
    allows those, but then the reason can name the field.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        try:
            return json.loads(raw.decode())
        except (ValueError, RecursionError):
            return None


def _is_whole(value: object) -> bool:
    return not isinstance(value, str) or not any("\ud800" <= c <= "\udfff" for c in value)


def format_of(path: Path, named: FileFormat | None) -> FileFormat:
    """The format that was named, or that of the file's suffix. Raises ConfigError when neither is known."""
    found = named or _SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise ConfigError(f"The name of {path} must end in .csv or .jsonl, or name the format with --format.")
    return found


def _delimiter(header: bytes) -> str:
    """The delimiter of a CSV, from its header: comma, semicolon or tab.

    Spreadsheets write semicolons in countries where the comma is the decimal point.
    """
    if b"," in header:
        return ","
    return ";" if b";" in header else "\t" if b"\t" in header else ","
