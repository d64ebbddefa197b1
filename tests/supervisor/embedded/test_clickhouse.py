"""The embedded ClickHouse to unmodified clients, and to clients that misbehave."""

from __future__ import annotations

import asyncio
import base64
import gzip
import socket
import sys
import time
import uuid
import zlib
from collections.abc import AsyncIterator, Iterator
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import clickhouse_connect
import lz4.frame  # type: ignore[import-untyped]
import pytest
from backports import zstd
from clickhouse_connect.driver.exceptions import DatabaseError

from supervisor.embedded.servers import Server


@pytest.fixture
def client(clickhouse_url: str) -> Iterator[Any]:
    client = clickhouse_connect.get_client(dsn=clickhouse_url, compress=False)
    yield client
    client.close()


@pytest.fixture
async def async_client(clickhouse_url: str) -> AsyncIterator[Any]:
    client = await clickhouse_connect.get_async_client(dsn=clickhouse_url)
    yield client
    await client.close()


@pytest.fixture
async def http(clickhouse_url: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A plain HTTP client with the right password."""
    at = urlsplit(clickhouse_url)
    headers = {"Authorization": basic(clickhouse_url)}
    async with aiohttp.ClientSession(f"http://{at.hostname}:{at.port}", headers=headers) as session:
        yield session


def basic(url: str) -> str:
    at = urlsplit(url)
    return "Basic " + base64.b64encode(f"{at.username}:{at.password}".encode()).decode()


@pytest.fixture
def table(client: Any) -> Iterator[str]:
    name = f"t_{uuid.uuid4().hex[:8]}"
    client.command(
        f"CREATE TABLE {name} (a UInt64, b String) ENGINE = MergeTree ORDER BY a "
        "SETTINGS non_replicated_deduplication_window = 1000"
    )
    yield name
    client.command(f"DROP TABLE {name}")


def count(client: Any, table: str) -> int:
    return int(client.command(f"SELECT count() FROM {table}"))


def rows(start: int, n: int) -> list[list[Any]]:
    return [[i, f"row {i}"] for i in range(start, start + n)]


@pytest.mark.parametrize("compress", [False, "lz4", "zstd", "gzip"])
def test_a_sync_client_inserts_with_every_compression(clickhouse_url: str, table: str, compress: Any) -> None:
    client = clickhouse_connect.get_client(dsn=clickhouse_url, compress=compress)
    client.insert(table, rows(0, 70_000), column_names=["a", "b"])
    assert client.query(f"SELECT count(), sum(a), uniq(b) > 60000 FROM {table}").result_rows == [
        (70_000, sum(range(70_000)), 1)
    ]
    client.close()


async def test_an_async_client_inserts_reads_and_binds(async_client: Any, table: str) -> None:
    await async_client.insert(table, rows(0, 500), column_names=["a", "b"], settings={"async_insert": 0})
    odd = "tab\t quote' back\\ new\nline ü"
    got = await async_client.query("SELECT {x:String} AS x, {y:Array(UInt32)} AS y", {"x": odd, "y": [1, 2]})
    assert got.result_rows == [(odd, [1, 2])]
    assert (await async_client.query(f"SELECT count() FROM {table}")).first_row == (500,)


async def test_a_long_parameter_travels_in_a_form(async_client: Any) -> None:
    numbers = list(range(60_000))
    got = await async_client.query(
        "SELECT length({x:Array(UInt32)}), {x:Array(UInt32)}[60000]", {"x": numbers}
    )
    assert got.first_row == (60_000, 59_999)


async def test_200_000_rows_stream_in_parts(async_client: Any) -> None:
    blocks = total = 0
    query = "SELECT number, toString(number) FROM numbers(200000)"
    async with await async_client.query_row_block_stream(query) as stream:
        async for block in stream:
            blocks += 1
            total += len(block)
    assert (total, blocks > 1) == (200_000, True)


async def test_an_error_after_the_first_part_reaches_the_client(async_client: Any, client: Any) -> None:
    query = "SELECT throwIf(number = 199999, 'too far') FROM numbers(200000)"
    settings = {"max_block_size": 10_000, "max_threads": 1}
    with pytest.raises(DatabaseError, match="too far"):
        await async_client.query(query, settings=settings)
    with pytest.raises(DatabaseError, match="too far"):
        _ = client.query(query, settings=settings).result_rows


def test_a_client_gone_in_the_middle_of_a_stream_ends_its_query(clickhouse_url: str, client: Any) -> None:
    at = urlsplit(clickhouse_url)
    connection = HTTPConnection(at.hostname or "", at.port, timeout=60)
    query = "SELECT number FROM numbers(1000000000000) FORMAT TSV"
    connection.request("POST", "/", query, {"Authorization": basic(clickhouse_url)})
    assert len(connection.getresponse().read(100_000)) == 100_000
    running = "SELECT count() FROM system.processes WHERE query LIKE '%numbers(1000000000000)%'"
    # The question counts itself.
    assert client.command(running) == 2
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    deadline = time.monotonic() + 60
    while client.command(running) > 1:
        assert time.monotonic() < deadline, "the query runs on"
        time.sleep(0.02)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1; SELECT 2",
        "CREATE TABLE x (a Int8) ENGINE = Memory; DROP TABLE x",
        "INSERT INTO {table} VALUES (1, ';'); SELECT 1",
        "SELECT 1 /* ; */; DROP TABLE {table}",
    ],
)
async def test_two_statements_in_one_request_are_refused(
    http: aiohttp.ClientSession, client: Any, table: str, query: str
) -> None:
    async with http.post("/", data=query.format(table=table)) as response:
        assert (response.status, response.headers["X-ClickHouse-Exception-Code"]) == (400, "62")
        assert "Multi-statements are not allowed" in await response.text()
    assert count(client, table) == 0


async def test_a_semicolon_in_text_or_at_the_end_is_no_second_statement(http: aiohttp.ClientSession) -> None:
    for query in ("SELECT ';';", "SELECT `;` FROM (SELECT ';' AS `;`) -- ; x\n;", "SELECT $$;$$"):
        async with http.post("/", data=query) as response:
            assert (response.status, await response.text()) == (200, ";\n"), query


async def test_an_unknown_setting_is_refused_wherever_it_stands(
    http: aiohttp.ClientSession, table: str
) -> None:
    for query in ("SELECT 1", f"INSERT INTO {table} FORMAT CSV\n1,a\n"):
        async with http.post("/", params={"no_such_setting": "1"}, data=query) as response:
            assert (response.status, response.headers["X-ClickHouse-Exception-Code"]) == (404, "115")
    async with http.post("/", data="SELECT 1 SETTINGS no_such_setting = 1") as response:
        assert response.headers["X-ClickHouse-Exception-Code"] == "115"
    async with http.post("/", params={"max_threads": "many"}, data="SELECT 1") as response:
        assert response.status == 400


async def test_settings_hold_for_their_request_only_also_in_a_session(http: aiohttp.ClientSession) -> None:
    asked = "SELECT getSetting('max_block_size')"

    async def get(**params: str) -> str:
        async with http.post("/", params=params, data=asked) as response:
            return await response.text()

    usual = await get()
    session = uuid.uuid4().hex
    assert await get(session_id=session, max_block_size="77") == "77\n"
    assert await get(session_id=session) == usual
    assert await get(max_block_size="78") == "78\n"
    assert await get() == usual


async def test_a_session_keeps_its_temporary_table_and_nobody_else_sees_it(
    http: aiohttp.ClientSession,
) -> None:
    session = {"session_id": uuid.uuid4().hex}
    async with http.post("/", params=session, data="CREATE TEMPORARY TABLE mine (a UInt8)") as response:
        assert response.status == 200
        # A result format would make clients expect rows.
        assert "X-ClickHouse-Format" not in response.headers
    async with http.post("/", params=session, data="INSERT INTO mine FORMAT CSV\n1\n2\n") as response:
        assert response.status == 200
    async with http.post("/", params=session, data="SELECT sum(a) FROM mine") as response:
        assert await response.text() == "3\n"
    async with http.post("/", data="SELECT sum(a) FROM mine") as response:
        assert (response.status, response.headers["X-ClickHouse-Exception-Code"]) == (404, "60")
    unknown = {"session_id": uuid.uuid4().hex, "session_check": "1"}
    async with http.post("/", params=unknown, data="SELECT 1") as response:
        assert response.headers["X-ClickHouse-Exception-Code"] == "372"


async def test_a_session_in_use_is_locked_and_then_free_again(
    http: aiohttp.ClientSession, client: Any
) -> None:
    session = {"session_id": uuid.uuid4().hex}
    slow = asyncio.create_task(_ask(http, "SELECT sleep(1.5)", session))
    running = "SELECT count() FROM system.processes WHERE query LIKE '%sleep(1.5)%'"
    # The question counts itself.
    while await asyncio.to_thread(client.command, running) < 2:
        assert not slow.done()
    assert await _ask(http, "SELECT 1", session) == (400, "373")
    assert await _ask(http, "SELECT 1", {}) == (200, "")
    assert await slow == (200, "")
    assert await _ask(http, "SELECT 1", session) == (200, "")


async def _ask(http: aiohttp.ClientSession, query: str, params: dict[str, str]) -> tuple[int, str]:
    """Status and error code."""
    async with http.post("/", params=params, data=query) as response:
        return response.status, response.headers.get("X-ClickHouse-Exception-Code", "")


async def test_bodies_that_are_no_requests_are_refused_and_the_server_goes_on(
    http: aiohttp.ClientSession,
) -> None:
    for body in (b"", b" ", b"\xff\xfe", b"SELECT '\xff'", b"\x00" * 5000, b"'" * 100_000, b"(" * 5000):
        async with http.post("/", data=body) as response:
            assert response.status == 400, body[:10]
    form = {"Content-Type": "multipart/form-data"}  # without a boundary
    async with http.post("/", data=b"x", headers=form) as response:
        assert response.status == 400
    async with http.post("/", data=b"SELECT 1", headers={"Content-Encoding": "br"}) as response:
        assert response.headers["X-ClickHouse-Exception-Code"] == "89"
    assert await _ask(http, "SELECT 1", {}) == (200, "")


async def test_a_wrong_password_or_user_is_refused(clickhouse_url: str, http: aiohttp.ClientSession) -> None:
    at = urlsplit(clickhouse_url)
    right = at.password or ""
    for user, password in (("sms", "wrong"), ("default", right), ("sms", ""), ("", "")):
        with pytest.raises(DatabaseError, match="516"):
            clickhouse_connect.get_client(host=at.hostname, port=at.port, username=user, password=password)
    async with (
        aiohttp.ClientSession() as stranger,
        stranger.get(f"http://{at.hostname}:{at.port}/?query=SELECT+1") as response,
    ):
        assert (response.status, response.headers["X-ClickHouse-Exception-Code"]) == (403, "516")


async def test_errors_carry_their_code_in_the_header(http: aiohttp.ClientSession) -> None:
    for query, code in (("SELECT * FROM no_such_table", "60"), ("SELEC 1", "62"), ("SELECT nosuch", "47")):
        async with http.post("/", data=query) as response:
            assert response.headers["X-ClickHouse-Exception-Code"] == code
            text = await response.text()
            assert text.startswith(f"Code: {code}. DB::Exception: ")
            assert "(version 26." in text


async def test_reading_only_is_enforced(http: aiohttp.ClientSession, client: Any, table: str) -> None:
    async with http.get("/", params={"query": f"TRUNCATE TABLE {table}"}) as response:
        assert response.headers["X-ClickHouse-Exception-Code"] == "164"
    hosts = "SELECT count() FROM file('/etc/passwd', 'LineAsString')"
    async with http.post("/", params={"readonly": "1"}, data=hosts) as response:
        assert response.headers["X-ClickHouse-Exception-Code"] == "164"
    with pytest.raises(DatabaseError, match="164"):
        client.command(f"TRUNCATE TABLE {table}", settings={"readonly": 2})


async def test_files_of_the_host_are_neither_written_nor_inserted(
    http: aiohttp.ClientSession, table: str
) -> None:
    for query in (
        "SELECT 1 INTO OUTFILE '/tmp/out' FORMAT CSV",
        f"INSERT INTO {table} FROM INFILE '/etc/passwd' FORMAT CSV",
    ):
        async with http.post("/", data=query) as response:
            assert (response.status, response.headers["X-ClickHouse-Exception-Code"]) == (400, "358")


def packed(encoding: str, data: bytes) -> bytes:
    if encoding == "gzip":
        return gzip.compress(data)
    if encoding == "deflate":
        return zlib.compress(data)
    if encoding == "zstd":
        return zstd.compress(data)
    return bytes(lz4.frame.compress(data))


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", "lz4"])
async def test_a_body_of_many_frames_is_one_insert(
    http: aiohttp.ClientSession, client: Any, table: str, encoding: str
) -> None:
    insert = f"INSERT INTO {table} FORMAT TSV\n".encode()
    body = packed(encoding, insert) + packed(encoding, b"1\ta\n2\t") + packed(encoding, b"b\n")
    async with http.post("/", data=body, headers={"Content-Encoding": encoding}) as response:
        assert response.status == 200, await response.text()
        assert '"written_rows": "2"' in response.headers["X-ClickHouse-Summary"]
    assert count(client, table) == 2


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", "lz4"])
async def test_a_compressed_body_cut_short_or_followed_by_garbage_leaves_no_row(
    http: aiohttp.ClientSession, client: Any, table: str, encoding: str
) -> None:
    whole = packed(encoding, f"INSERT INTO {table} FORMAT TSV\n".encode() + b"1\ta\n" * 5000)
    garbage = b"INTERNAL EXCEPTION WHILE SERIALIZING"
    for body in (whole[:-4], whole + garbage, garbage):
        async with http.post("/", data=body, headers={"Content-Encoding": encoding}) as response:
            assert (response.status, response.headers["X-ClickHouse-Exception-Code"]) == (400, "117")
    assert count(client, table) == 0


async def test_garbage_behind_good_rows_leaves_none_of_them(
    http: aiohttp.ClientSession, client: Any, table: str
) -> None:
    for filler in (1, 300_000):  # in one piece, and in several
        body = f"INSERT INTO {table} FORMAT TSV\n".encode() + b"1\ta row\n" * filler + b"INTERNAL EXCEPTION"
        async with http.post("/", data=body) as response:
            assert response.status == 400
    assert count(client, table) == 0


@pytest.mark.parametrize("size", [1, 300_000])
async def test_an_error_of_the_table_is_the_answer_to_the_insert(
    http: aiohttp.ClientSession, client: Any, table: str, size: int
) -> None:
    client.command(
        f"CREATE TABLE {table}_even (a UInt32, b String, CONSTRAINT even CHECK a % 2 = 0) "
        "ENGINE = MergeTree ORDER BY a"
    )
    client.command(f"CREATE TABLE {table}_view (a UInt32) ENGINE = MergeTree ORDER BY a")
    client.command(
        f"CREATE MATERIALIZED VIEW {table}_fails TO {table}_view AS SELECT throwIf(a = 3) AS a FROM {table}"
    )
    for row, target, code in ((1, f"{table}_even", "469"), (3, table, "395")):
        body = f"INSERT INTO {target} FORMAT TSV\n".encode() + b"%d\ta\n" % row * size
        async with http.post("/", params={"async_insert": "0"}, data=body) as response:
            assert (response.status, response.headers.get("X-ClickHouse-Exception-Code")) == (500, code)
    assert count(client, f"{table}_even") == 0


async def test_a_client_that_fails_while_it_serialises_leaves_no_row(async_client: Any, table: str) -> None:
    broken: list[list[Any]] = [*rows(0, 100_000), ["no number", "x"]]
    with pytest.raises(Exception, match="Unable to create native array"):
        await async_client.insert(table, broken, column_names=["a", "b"])
    assert (await async_client.query(f"SELECT count() FROM {table}")).first_row == (0,)


@pytest.mark.parametrize("size", [100, 400_000])
def test_an_insert_whose_client_vanishes_leaves_no_row(
    clickhouse_url: str, client: Any, table: str, size: int
) -> None:
    at = urlsplit(clickhouse_url)
    body = f"INSERT INTO {table} FORMAT TSV\n".encode() + b"1\ta row\n" * size
    head = "POST / HTTP/1.1\r\nHost: x\r\n"
    head += f"Authorization: {basic(clickhouse_url)}\r\nContent-Length: {len(body) + 50}\r\n\r\n"
    with socket.create_connection((at.hostname or "", at.port or 0), timeout=60) as s:
        s.sendall(head.encode() + body)
        s.shutdown(socket.SHUT_WR)
        # Closed without an answer, when the server is through with it.
        while s.recv(4096):
            pass
    assert count(client, table) == 0


async def test_a_token_makes_an_insert_count_once_in_the_table_and_its_view(
    async_client: Any, table: str
) -> None:
    settings = "non_replicated_deduplication_window = 1000"
    await async_client.command(
        f"CREATE TABLE {table}_sums (k UInt8, n SimpleAggregateFunction(sum, UInt64)) "
        f"ENGINE = AggregatingMergeTree ORDER BY k SETTINGS {settings}"
    )
    await async_client.command(
        f"CREATE MATERIALIZED VIEW {table}_view TO {table}_sums AS "
        f"SELECT toUInt8(a % 3) AS k, count() AS n FROM {table} GROUP BY k"
    )
    once = {
        "async_insert": 0,
        "deduplicate_blocks_in_dependent_materialized_views": 1,
        "insert_deduplication_token": uuid.uuid4().hex,
    }
    for _ in range(3):
        await async_client.insert(table, rows(0, 1000), column_names=["a", "b"], settings=once)
    again = {**once, "insert_deduplication_token": uuid.uuid4().hex}
    await async_client.insert(table, rows(0, 1000), column_names=["a", "b"], settings=again)
    got = await async_client.query(f"SELECT (SELECT count() FROM {table}), (SELECT sum(n) FROM {table}_sums)")
    await async_client.command(f"DROP VIEW {table}_view")
    await async_client.command(f"DROP TABLE {table}_sums")
    assert got.first_row == (2000, 2000)


def test_the_process_that_starts_servers_has_not_loaded_the_engine(clickhouse_server: Server) -> None:
    assert clickhouse_server.poll() is None
    assert "chdb" not in sys.modules
