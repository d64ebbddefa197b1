"""Statements and bodies, as the embedded ClickHouse understands them before its engine does."""

from __future__ import annotations

import gzip
import time

import lz4.frame  # type: ignore[import-untyped]
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from supervisor.embedded.clickhouse.protocol import Decoder, Failed, call, engine_failed, parse


@pytest.mark.parametrize(
    ("query", "kind", "named", "streams"),
    [
        ("SELECT 1", "read", None, True),
        ("select 1 format Native", "read", "Native", True),
        ("SELECT 1 FORMAT JSON SETTINGS max_threads = 1", "read", "JSON", True),
        ("SELECT 1 format FROM t", "read", None, True),
        ("SELECT 'x FORMAT CSV'", "read", None, True),
        ("SELECT 1 -- FORMAT CSV", "read", None, True),
        ("SELECT * FROM (SELECT 1 FORMAT)", "read", None, True),
        ("-- c\n/* INSERT */ # x\n((SELECT 1)) FORMAT CSV;", "read", "CSV", True),
        ("WITH 1 AS x SELECT x", "read", None, True),
        ("SHOW TABLES FORMAT TSV", "read", "TSV", False),
        ("CREATE TABLE t (a Int8) ENGINE = Memory", "command", None, False),
        ("INSERT INTO t VALUES (1, ';')", "command", None, False),
        ("INSERT INTO format VALUES (1)", "command", None, False),
        ("INSERT INTO t SELECT format('{}', a) FROM s", "command", None, False),
    ],
)
def test_a_statement_is_told_apart(query: str, kind: str, named: str | None, streams: bool) -> None:
    statement = parse(query.encode())
    assert (statement.kind, statement.format, statement.streams) == (kind, named, streams)
    assert statement.sql == query


@pytest.mark.parametrize(
    ("body", "sql", "named", "rows"),
    [
        (b"INSERT INTO t FORMAT Native\n\x00\xff;\n", "INSERT INTO t ", "Native", b"\x00\xff;\n"),
        (b"insert into t (a, format) format CSV 1,2", "insert into t (a, format) ", "CSV", b"1,2"),
        (b"INSERT INTO db.format FORMAT CSV\r\n1", "INSERT INTO db.format ", "CSV", b"1"),
        (b"INSERT INTO `x FORMAT TSV\n` FORMAT CSV\n1", "INSERT INTO `x FORMAT TSV\n` ", "CSV", b"1"),
        (b"INSERT INTO FUNCTION f('a', t) FORMAT TSV\n\n", "INSERT INTO FUNCTION f('a', t) ", "TSV", b"\n"),
        (b"INSERT INTO t SETTINGS x='FORMAT y' FORMAT Z", "INSERT INTO t ", "Z", b""),
        (b"INSERT INTO db.settings (a) FORMAT Z", "INSERT INTO db.settings (a) ", "Z", b""),
        (b"INSERT INTO format FORMAT JSONEachRow {}", "INSERT INTO format ", "JSONEachRow", b"{}"),
    ],
)  # fmt: skip
def test_rows_begin_behind_the_format(body: bytes, sql: str, named: str, rows: bytes) -> None:
    statement = parse(body)
    assert (statement.kind, statement.sql, statement.format) == ("data", sql, named)
    assert body[statement.data_at :] == rows


def test_settings_of_an_insert_stand_apart_from_its_table() -> None:
    statement = parse(b"INSERT INTO settings (a) SETTINGS x='FORMAT y', z=1 FORMAT CSV\n1")
    assert (statement.sql, statement.settings) == (
        "INSERT INTO settings (a) ",
        "SETTINGS x='FORMAT y', z=1 ",
    )


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", 62),
        ("  -- nothing", 62),
        ("SELECT 1; SELECT 2", 62),
        ("SELECT 1;;x", 62),
        ("'SELECT 1'", 62),
        ("\0\0", 62),
        ("INSERT INTO t VALUES (1, ';'); SELECT 1", 62),
        ("INSERT INTO t (a); DROP TABLE t", 62),
        ("CREATE TABLE t (a Int8); DROP TABLE t", 62),
        ("SELECT ';' /* ; */ ; DROP TABLE t", 62),
        ("SELECT 1 INTO OUTFILE 'x'", 358),
        ("INSERT INTO t FROM INFILE 'x' FORMAT CSV", 358),
    ],
)
def test_what_a_server_refuses_is_refused(query: str, code: int) -> None:
    with pytest.raises(Failed) as caught:
        parse(query.encode())
    assert caught.value.code == code
    assert caught.value.status == 400


def test_a_statement_of_eight_times_the_length_takes_no_more_than_that_many_times_the_work() -> None:
    def work_s(length: int) -> float:
        numbers = ",".join(map(str, range(length)))
        values = ",".join(f"({i}, 'a;{i}', now())" for i in range(length))
        began = time.process_time()
        assert parse(f"SELECT a FROM t WHERE a IN ({numbers}) FORMAT Native".encode()).format == "Native"
        assert parse(f"INSERT INTO t VALUES {values}".encode()).kind == "command"
        return time.process_time() - began

    short_s, long_s = (min(work_s(length) for _ in range(5)) for length in (10_000, 80_000))
    # Time of this process alone. Work that grows with the square would be 64 times as much.
    assert long_s < 32 * short_s


@given(st.binary(max_size=300))
def test_any_bytes_are_a_statement_or_refused(body: bytes) -> None:
    try:
        statement = parse(body)
    except Failed as e:
        code = e.code
    else:
        assert 0 < statement.data_at <= len(body)
        return
    assert code in (62, 358)


@given(
    st.lists(st.binary(max_size=200), min_size=1, max_size=5),
    st.integers(min_value=1, max_value=50),
    st.sampled_from(["identity", "gzip", "zstd", "lz4"]),
)
def test_a_body_is_the_same_however_it_is_cut(frames: list[bytes], size: int, encoding: str) -> None:
    pack = {
        "identity": bytes,
        "gzip": gzip.compress,
        "zstd": zstd.compress,
        "lz4": lz4.frame.compress,
    }[encoding]
    body = b"".join(pack(frame) for frame in frames)
    decoder = Decoder(encoding)
    parts = [decoder.decode(body[at : at + size]) for at in range(0, len(body), size)]
    decoder.finish()
    assert b"".join(parts) == b"".join(frames)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("gzip", gzip.compress(b"rows" * 1000)),
        ("zstd", zstd.compress(b"rows" * 1000)),
        ("lz4", lz4.frame.compress(b"rows" * 1000)),
    ],
)
def test_a_frame_without_its_end_is_refused(name: str, body: bytes) -> None:
    for cut in range(1, len(body)):
        with pytest.raises(Failed):
            decode_whole(name, body[:cut])
    decode_whole(name, body)


def decode_whole(name: str, body: bytes) -> bytes:
    decoder = Decoder(name)
    decoded = decoder.decode(body)
    decoder.finish()
    return decoded


def test_arguments_are_told_apart_from_settings_and_parameters() -> None:
    arguments = {"query": "x", "database": "d", "param_p": "1", "max_threads": "2", "session_id": "s"}
    asked = call(arguments, {})
    assert (asked.database, asked.session, asked.session_s) == ("d", "s", 60)
    assert (dict(asked.settings), dict(asked.parameters)) == ({"max_threads": "2"}, {"p": "1"})
    for wrong in ({"session_timeout": "0"}, {"session_timeout": "x"}, {"decompress": "1"}):
        with pytest.raises(Failed):
            call(wrong, {})


def test_an_error_of_the_engine_loses_what_its_bindings_put_in_front() -> None:
    e = engine_failed("Streaming insert finish failed: Code: 27. DB::Exception: Cannot parse.")
    assert (e.text, e.code, e.status) == ("Code: 27. DB::Exception: Cannot parse.", 27, 400)
    assert (engine_failed("out of the blue").code, engine_failed("out of the blue").status) == (1002, 500)
