"""Whether a commit that PostgreSQL has answered survives a crash: by the settings in force for this user.

Some distributions and administrators turn these settings off, for a server, a database or a role. The
books would then lose top-ups and charges that were answered already, and nobody could tell.
"""

from __future__ import annotations

import asyncpg

# By setting: what happens while it is off.
_LOSES = {
    "fsync": "a crash of the machine destroys the books",
    "full_page_writes": "a crash of the machine destroys the books",
    "synchronous_commit": "a crash of PostgreSQL loses top-ups and charges that were answered for",
}


async def durability_warnings(connection: asyncpg.Connection) -> tuple[str, ...]:
    """What may lose commits and does not keep the engine from running, each in one sentence."""
    found = await connection.fetch(
        "SELECT name FROM unnest($1::text[]) AS name WHERE current_setting(name) = 'off'", list(_LOSES)
    )
    return tuple(f"{row['name']} is off: {_LOSES[row['name']]}; set {row['name']} to on" for row in found)
