"""Files of messages are read line by line; one bad line stops no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import ConfigError
from supervisor.cli.message_file import FileFormat, Line, MessageFile, format_of


def read(tmp_path: Path, content: bytes, file_format: FileFormat, **defaults: str | int) -> list[Line]:
    path = tmp_path / f"messages.{file_format}"
    path.write_bytes(content)
    return list(MessageFile(path=path, format=file_format, defaults=defaults).lines())


def test_jsonl_line_becomes_a_draft_with_its_line_number(tmp_path: Path) -> None:
    lines = read(tmp_path, b'{"to":"+1","text":"a"}\n\n{"to":"+2","text":"b","queue":"express"}\n', "jsonl")
    assert [(n.number, n.draft.to if n.draft else None) for n in lines] == [(1, "+1"), (3, "+2")]
    assert lines[1].draft is not None
    assert lines[1].draft.queue == "express"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"no json", "not a JSON object"),
        (b"[1]", "not a JSON object"),
        (b'{"to":"+1"}', "text is missing"),
        (b'{"text":"a"}', "to is missing"),
        (b'{"to":"+1","text":null}', "text is missing"),
        (b'{"to":1,"text":"a"}', "Expected `str`, got `int` - at `$.to`"),
        (b'{"to":"+1","text":"a","queue":"slow"}', "Invalid enum value 'slow' - at `$.queue`"),
        (b'{"to":"+1","text":"\xff"}', "not a JSON object"),
        (b'{"to":"+1","text":"\\ud83d"}', "text is not UTF-8, or has half of a surrogate pair"),
        (
            b'{"to":"+1","text":"a","validity":1e400}',
            "Expected `int | null`, got `float` - at `$.validity`",
        ),
        (b'{"to":"+1","text":"' + b"[" * 100_000, "not a JSON object"),
    ],
)
def test_bad_jsonl_line_is_told_and_the_next_one_read(tmp_path: Path, raw: bytes, reason: str) -> None:
    bad, good = read(tmp_path, raw + b'\n{"to":"+1","text":"a"}\n', "jsonl")
    assert bad.draft is None
    assert bad.reason == reason
    assert good.draft is not None


def test_unknown_fields_are_left_out_and_remembered(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"to":"+1","text":"a","source":"uci"}\n')
    source = MessageFile(path=path, format="jsonl")
    (line,) = source.lines()
    assert line.draft is not None
    assert source.ignored == {"source"}


def test_defaults_fill_what_lines_leave_out(tmp_path: Path) -> None:
    first, second = read(tmp_path, b'{"text":"a"}\n{"text":"b","to":"+2"}\n', "jsonl", to="+1", validity=60)
    assert first.draft is not None
    assert second.draft is not None
    assert (first.draft.to, second.draft.to, second.draft.validity) == ("+1", "+2", 60)


def test_csv_with_quotes_line_breaks_and_empty_cells(tmp_path: Path) -> None:
    content = '\ufeffTo,text,validity,reference\n+1,"Hello, ""you""\nthere",300,\n+2,plain,,r2\n'.encode()
    first, second = read(tmp_path, content, "csv")
    assert first.draft is not None
    assert (first.draft.text, first.draft.validity, first.draft.reference) == (
        'Hello, "you"\nthere',
        300,
        None,
    )
    assert second.draft is not None
    assert (second.draft.validity, second.draft.reference, second.number) == (None, "r2", 4)
    assert second.position == len(content)


def test_csv_of_a_spreadsheet_with_semicolons(tmp_path: Path) -> None:
    (line,) = read(tmp_path, b"to;text\r\n+1;a, b\r\n", "csv")
    assert line.draft is not None
    assert line.draft.text == "a, b"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"+1,a,extra", "3 fields where the header names 2"),
        (b"+1", "text is missing"),
        (b"+1,\xff\xfe", "text is not UTF-8, or has half of a surrogate pair"),
    ],
)
def test_bad_csv_line_is_told_and_the_next_one_read(tmp_path: Path, row: bytes, reason: str) -> None:
    bad, good = read(tmp_path, b"to,text\n" + row + b"\n+2,b\n", "csv")
    assert (bad.draft, bad.reason, bad.number) == (None, reason, 2)
    assert good.draft is not None


@pytest.mark.parametrize("content", [b"", b"number,message\n+1,a\n"])
def test_csv_without_the_needed_columns_is_refused_whole(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"must name the columns, with to among them"):
        read(tmp_path, content, "csv")


def test_broken_csv_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"messages.csv line 3 is not CSV"):
        read(tmp_path, b'to,text\n+1,a\n+2,"b"x\n', "csv")


def test_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    source = MessageFile(path=tmp_path / "none.csv", format="csv")
    with pytest.raises(ConfigError, match=r"none.csv cannot be read: No such file or directory\."):
        list(source.lines())


def test_format_comes_from_the_name_or_the_option() -> None:
    assert format_of(Path("a.CSV"), None) == "csv"
    assert format_of(Path("a.jsonl"), None) == "jsonl"
    assert format_of(Path("a.txt"), "jsonl") == "jsonl"
    with pytest.raises(ConfigError, match=r"must end in \.csv or \.jsonl"):
        format_of(Path("a.txt"), None)
