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
        (b'{"to":1,"text":"a"}', 'to must be a phone number in E.164 as a string, such as "+14155550123"'),
        (b'{"to":"+1","text":"a","queue":"slow"}', 'queue must be "express" or "normal"'),
        (b'{"to":"+1","text":"\xff"}', "text is not UTF-8, or has half of a surrogate pair"),
        (b'{"to":"+1","text":"\\ud83d"}', "text is not UTF-8, or has half of a surrogate pair"),
        (
            b'{"to":"+1","text":"a","validity":1e400}',
            "validity must be a whole number of seconds",
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
        (b"+1,\xff\xfe", "text is not UTF-8; name the encoding with --encoding"),
        (b'+1,"He said "hi""', 'a quote within a field in quotes must be doubled ("")'),
        (b'+1,"a" b', 'a quote within a field in quotes must be doubled ("")'),
        (b'+1,"never closed', "a quote opens a field and is not closed"),
        (b'+1,"' + b"x" * 200_000 + b'"', "it has a field of more than 131,072 characters"),
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


def summary(lines: list[Line]) -> list[tuple[int, str]]:
    """Number and text of each line; "!" and the reason of one that is no message."""
    return [(n.number, n.draft.text if n.draft else f"!{n.reason}") for n in lines]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_quote_that_is_not_closed_costs_its_own_line_alone(tmp_path: Path, end: str) -> None:
    """Neither one that the next quote would close nor one that would take the rest of the file along."""
    rows = ["to,text", "+491,a", '+492,"open', '+493,"two', 'lines"', "+494,b", '+495,"open again', "+496,c"]
    found = summary(read(tmp_path, end.join(rows).encode(), "csv"))
    not_closed = "!a quote opens a field and is not closed"
    doubled = '!a quote within a field in quotes must be doubled ("")'
    assert found == [
        (2, "a"), (3, doubled), (4, f"two{end}lines"), (6, "b"), (7, not_closed), (8, "c"),
    ]  # fmt: skip


def test_a_line_swallowed_by_a_quote_is_a_message_again(tmp_path: Path) -> None:
    rows = ["to,text", '+491,"open', "+492,a", '+493,b "']
    found = read(tmp_path, "\n".join(rows).encode(), "csv")
    assert [(n.number, n.draft is None) for n in found] == [(2, True), (3, False), (4, False)]


def test_a_field_that_never_ends_is_not_read_to_the_end_of_the_file(tmp_path: Path) -> None:
    rows = ["text,to", '"open', *(f"x{n}" for n in range(500)), "a,+492"]
    found = read(tmp_path, "\n".join(rows).encode(), "csv")
    assert (found[0].number, found[0].draft) == (2, None)
    assert found[-1].draft is not None
    assert (found[-1].number, found[-1].draft.to) == (503, "+492")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_spreadsheets_csv_is_read_wherever_it_was_written(
    tmp_path: Path, encoding: str, delimiter: str, end: str
) -> None:
    rows = [["To", " TEXT ", "Send At"], ["+491", '"سلام, a; b\t| 😀"', ""], ["+492", "é", ""]]
    text = end.join(delimiter.join(row) for row in rows) + end
    first, second = read(tmp_path, text.encode(encoding), "csv")
    assert first.draft is not None
    assert second.draft is not None
    assert (first.number, first.draft.to, first.draft.text) == (2, "+491", "سلام, a; b\t| 😀")
    assert (second.number, second.draft.to, second.draft.text) == (3, "+492", "é")
    assert second.position == len(text.encode(encoding))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_jsonl_is_read_as_shells_write_it(tmp_path: Path, encoding: str) -> None:
    text = '{"to":"+491","text":"é"}\r\n\r\n{"to":"+492","text":"\\ud83d"}\r\n{"to":"+493","text":"b"}\r\n'
    found = read(tmp_path, text.encode(encoding), "jsonl")
    assert [(n.number, n.draft.to if n.draft else "") for n in found] == [(1, "+491"), (3, ""), (4, "+493")]


@pytest.mark.parametrize(("encoding", "text"), [("cp1252", "für élan"), ("cp1256", "سلام"), ("gbk", "你好")])
def test_an_older_encoding_is_read_when_it_is_named(tmp_path: Path, encoding: str, text: str) -> None:
    path = tmp_path / "old.csv"
    path.write_bytes(f"to;text\r\n+491;{text}\r\n+492;plain\r\n".encode(encoding))
    named = list(MessageFile(path=path, format="csv", encoding=encoding).lines())
    assert [n.draft.text for n in named if n.draft] == [text, "plain"]
    not_named = list(MessageFile(path=path, format="csv").lines())
    assert [n.reason for n in not_named] == ["text is not UTF-8; name the encoding with --encoding", ""]


@pytest.mark.parametrize("first", [b"sep=;\r\n", b'"sep=;"\r\n', b"SEP=;\n"])
def test_a_line_that_names_the_separator_is_no_header(tmp_path: Path, first: bytes) -> None:
    (line,) = read(tmp_path, first + b"to;text\r\n+491;a, b\r\n", "csv")
    assert line.draft is not None
    assert (line.number, line.draft.text) == (3, "a, b")


def test_cells_are_read_without_what_spreadsheets_add(tmp_path: Path) -> None:
    content = b'\n,,,\nto,text,queue,\n="+491",="a", EXPRESS ,\n +492 , b ,,\n,,,\n'
    first, second = read(tmp_path, content, "csv")
    assert first.draft is not None
    assert (first.draft.to, first.draft.text, first.draft.queue) == ("+491", "a", "express")
    assert second.draft is not None
    assert (second.draft.to, second.draft.text, second.draft.queue) == ("+492", " b ", None)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"PK\x03\x04rest of an archive", "is the file of a spreadsheet program; save it as CSV in UTF-8"),
        (b"to,text,Text\n+1,a,b\n", "must name the column text once"),
        (b'to,"text\n', "line 1 must name the columns: a quote opens a field and is not closed"),
        ("to,text\n+1,a\n".encode("utf-16")[:-1], "breaks off within a character, or is not utf-16-le"),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, content, "csv")
    assert says in str(caught.value)


def test_an_encoding_that_there_is_not_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("to,text\n+1,a\n")
    for name in ("klingon", "rot13", "hex"):
        with pytest.raises(ConfigError, match=r"--encoding must be one of Python.s, such as cp1256"):
            list(MessageFile(path=path, format="csv", encoding=name).lines())


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
