"""ClickHouse databases with the tables of this version, one for each test.

To make the tables takes a second of a core, and to empty those that a test wrote to a tenth: a database is
emptied and lent to the next test. One of which a test changed more than rows is dropped.
"""

from __future__ import annotations

import http.client
import itertools
import time
import uuid
from base64 import b64encode
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

from engine.stores.migrate import migrate_clickhouse

_numbers = itertools.count(1)
_TABLES = """
SELECT name, create_table_query FROM system.tables WHERE database = currentDatabase() ORDER BY name"""
# A block that a mutation deleted still counts when its token comes again.
_MUTATIONS = "SELECT mutation_id, command FROM system.mutations WHERE database = currentDatabase()"
_EMPTIED = """
SELECT name FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree'"""
# A table has the parts that it had, and no other, when nothing was done to it: each insert makes one with a
# name of its own, which is still listed for minutes after a merge.
_PARTS = """
SELECT table, name, active FROM system.parts WHERE database = currentDatabase() FORMAT TabSeparated"""
_INSERTS = """
SELECT count() FROM system.processes WHERE current_database = currentDatabase() AND query_kind = 'Insert'"""


def in_database(url: str, name: str | int) -> str:
    """The URL of another database of the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


class Database:
    """One database, from when it has been migrated. Its calls block."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._tables = self._ask(_TABLES)
        # The server forgets them in time.
        self._mutations = set(self._ask(_MUTATIONS).splitlines())
        # The rows that each table has from the beginning.
        self._rows = {
            table: self._ask(f"SELECT * FROM `{table}` FORMAT TabSeparated")
            for table in self._ask(_EMPTIED).decode().split()
        }
        self._parts = self._parts_now()

    def _parts_now(self) -> set[tuple[str, str, str]]:
        """(table, name of the part, whether it is active)"""
        lines = self._ask(_PARTS).decode().splitlines()
        return {(table, name, active) for table, name, active in (line.split("\t") for line in lines)}

    def _ask(self, sql: str, rows: bytes = b"") -> bytes:
        at = urlsplit(self.url)
        assert at.hostname
        connection = http.client.HTTPConnection(at.hostname, at.port, timeout=60)
        key = b64encode(f"{at.username}:{at.password}".encode()).decode()
        try:
            connection.request(
                "POST",
                f"/?database={at.path.strip('/')}",
                sql.encode() + rows,
                {"Authorization": f"Basic {key}"},
            )
            response = connection.getresponse()
            answer = response.read()
            assert response.status == http.HTTPStatus.OK, answer
            return answer
        finally:
            connection.close()

    def empty(self) -> bool:
        """Make it as it was; False when more than rows has changed."""
        # What a client that was killed had begun goes on.
        while self._ask(_INSERTS) != b"0\n":
            time.sleep(0.02)
        if self._ask(_TABLES) != self._tables or set(self._ask(_MUTATIONS).splitlines()) - self._mutations:
            return False
        now = self._parts_now()
        # Parts that were inactive are removed in time.
        gone = {part for part in self._parts - now if part[2] == "1"}
        for table in {table for table, *_ in (now - self._parts) | gone}:
            self._ask(f"TRUNCATE TABLE `{table}`")
            if rows := self._rows[table]:
                self._ask(f"INSERT INTO `{table}` FORMAT TabSeparated\n", rows)
        self._parts = self._parts_now()
        return True

    def drop(self) -> None:
        self._ask(f"DROP DATABASE `{urlsplit(self.url).path.strip('/')}`")


# Those that no test has, by the URL of their server.
_free: defaultdict[str, list[Database]] = defaultdict(list)


@asynccontextmanager
async def lent_database(server_url: str) -> AsyncIterator[str]:
    """The URL of a database of this server with all tables and no rows of another test."""
    if _free[server_url]:
        database = _free[server_url].pop()
    else:
        url = in_database(server_url, f"lent_{next(_numbers)}_{uuid.uuid4().hex[:6]}")
        await migrate_clickhouse(url)
        database = Database(url)
    yield database.url
    if database.empty():
        _free[server_url].append(database)
    else:
        database.drop()
