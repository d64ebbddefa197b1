"""Erases a number from what is recorded: mutations, which ClickHouse carries out in the background.

A mutation is kept by the server until it is done, also when that is killed meanwhile; the same erasure may be
begun again at any time. Counts for reports have no numbers, and a row without its number keeps its units, so
that reports and audits are as before.

ClickHouse keeps the statements of the last hundred mutations of a table, in files and in `system.mutations`,
with the number and, where numbers are hashed, its hash beside it. So when somebody asks and all are done,
they are forgotten: killing a mutation that is done changes no row.
"""

from __future__ import annotations

from engine.activity.numbers import PLAIN, Numbers
from engine.stores.clickhouse.adapter import ClickHouseAdapter
from engine.stores.clickhouse.client import answering

# By table; the number is in E.164, so that it has nothing in it that SQL would read, nor have the other
# forms in which it may be stored.
_STATEMENTS = {
    "activity": "UPDATE to = '', text = '' WHERE to IN ({forms})",
    # A JSON array, in which the number is a string of its own.
    "outstanding": "UPDATE row = {row} WHERE multiSearchAny(row, [{quoted}])",
    # The whole message with its text, which would be sent once more.
    "kept_messages": """DELETE WHERE position(message, '"{number}"') > 0""",
    # As `engine.activity.numbers.are_digits_of` says; its fewest digits are seven.
    "receipts_unmatched": """DELETE WHERE to IN ({forms}) OR length(replaceRegexpOne(to, '^0+', '')) >= 7
        AND (endsWith(to, '{digits}') OR endsWith('{digits}', replaceRegexpOne(to, '^0+', '')))""",
    "inbound_messages": "DELETE WHERE sender IN ('{number}', '{digits}')",
}
_FORGET = f"""KILL MUTATION WHERE database = currentDatabase() AND is_done
    AND table IN ({", ".join(f"'{table}'" for table in _STATEMENTS)})"""


class ClickHouseErasure(ClickHouseAdapter):
    """Every call raises Unavailable, and ConfigError when an operator must act."""

    def __init__(self, url: str, timeout_s: float = 20.0, numbers: Numbers = PLAIN) -> None:
        """`timeout_s`: the deadline of each call, seconds. `numbers`: how they are stored. Raises
        ConfigError for a malformed URL."""
        super().__init__(url, timeout_s)
        self._numbers = numbers

    async def erase(self, number: str) -> None:
        """Begin to erase a number, in E.164 with the plus sign, from every table. Safe to repeat."""
        digits = number.removeprefix("+")
        assert digits.isascii()
        assert digits.isdecimal()
        forms, row = self._numbers.forms(f"+{digits}"), "row"
        for form in forms:
            row = f"""replaceAll({row}, '"{form}"', '""')"""
        named = {
            "number": f"+{digits}", "digits": digits, "row": row,
            "forms": ", ".join(f"'{form}'" for form in forms),
            "quoted": ", ".join(f"""'"{form}"'""" for form in forms),
        }  # fmt: skip
        client = await self._connected()
        async with answering(self._url, self._timeout_s):
            for table, change in _STATEMENTS.items():
                sql = f"ALTER TABLE {table} {change.format(**named)}"
                await client.command(sql, settings={"mutations_sync": 0})

    async def under_way(self) -> int:
        """How many changes of tables, of erasures among others, are not done yet. Forgets them if none is."""
        client = await self._connected()
        async with answering(self._url, self._timeout_s):
            found = await client.query(
                "SELECT count() FROM system.mutations WHERE database = currentDatabase() AND NOT is_done"
            )
            [(left,)] = found.result_rows
            if not left:
                await client.command(_FORGET)
        return int(left)
