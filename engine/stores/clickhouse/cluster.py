"""Rule: the statements that make the tables, for a cluster of ClickHouse servers.

The migrations say once how each table is. On a cluster every statement about a table or a view is carried
out on all servers (`ON CLUSTER`), and every table of the MergeTree family is its Replicated one, so that
each server has all rows. Such a table keeps its window of tokens in Keeper, where an insert that is sent
again to another server is known too; it is kept for a week, because ClickHouse may have been away for hours.

An insert is done when most of the servers have it, and what is read has all such inserts in it, whichever
server answers: a matcher that did not find what was archived would take a receipt for a new one. Without
most of the servers nothing is archived, and waits in Redis.
"""

from __future__ import annotations

import re

# How long a token is known, seconds.
_TOKENS_S = 7 * 86_400
SETTINGS = {
    "insert_quorum": "auto",
    # What is read at once has the inserts of others only when these come one after another.
    "insert_quorum_parallel": 0,
    "select_sequential_consistency": 1,
    # No answer with a line for each server, only whether all have done it.
    "distributed_ddl_output_mode": "none",
}
_NAMED = re.compile(
    r"(CREATE (?:TABLE|VIEW|MATERIALIZED VIEW) IF NOT EXISTS|CREATE OR REPLACE VIEW|"
    r"CREATE DATABASE IF NOT EXISTS|ALTER TABLE|"
    r"DROP (?:TABLE|VIEW) IF EXISTS) (`(?:[^`\\]|\\.)+`|\w+)"
)
_ENGINE = re.compile(r"^(\)\s*)?ENGINE = (\w*MergeTree)\b", re.MULTILINE)
_WINDOW = re.compile(r"\bnon_replicated_deduplication_window = (\d+)")


def on_cluster(statement: str, cluster: str) -> str:
    """The statement for the servers of a cluster; as it is where `cluster` is "".

    Rows that a statement inserts come to all servers by their table. Raises ValueError for a statement of
    which this does not know what it is on a cluster.
    """
    if not cluster or statement.startswith("INSERT INTO "):
        return statement
    named = _NAMED.match(statement)
    if named is None:
        raise ValueError(f"not known on a cluster: {statement[:60]}")
    rest = statement[named.end() :]
    if statement.startswith("CREATE TABLE"):
        rest, engines = _ENGINE.subn(r"\1ENGINE = Replicated\2", rest)
        if engines != 1:
            raise ValueError(f"a table that is not replicated: {statement[:60]}")
        rest = _WINDOW.sub(
            rf"replicated_deduplication_window = \1, replicated_deduplication_window_seconds = {_TOKENS_S}",
            rest,
        )
    return f"{named[1]} {named[2]} ON CLUSTER `{cluster}`{rest}"
