"""What organisations answer to STOP, START and HELP, in PostgreSQL.

Under failure. A change is one transaction. After `Unavailable` nobody knows whether it took effect; asking
for the same again is safe, and changes nothing the second time. A change counts for what comes after it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from msgspec.structs import asdict

from engine.errors import Refusal
from engine.inbound.auto_replies import AutoReply
from engine.inbound.own_numbers import own_number
from engine.stores.postgres.changes import note_change
from engine.stores.postgres.directory import no_organisation
from engine.stores.postgres.pool import Pool

# The most replies of one organisation.
REPLIES_OF_ONE_MAX = 300

_LANGUAGE = re.compile(r"[a-z]{2,3}")

_OF_ONE = """
SELECT action, number, language, text FROM auto_replies WHERE organisation_id = $1
ORDER BY action, number, language"""
_OF_SOME = """
SELECT organisation_id, action, number, language, text FROM auto_replies WHERE organisation_id = ANY($1)"""
_EXISTS = "SELECT 1 FROM organisations WHERE id = $1"
# It keeps two changes of one organisation apart.
_LOCK = "SELECT 1 FROM organisations WHERE id = $1 FOR NO KEY UPDATE"
_WRITE = """
INSERT INTO auto_replies (organisation_id, action, number, language, text) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (organisation_id, action, number, language) DO UPDATE SET text = EXCLUDED.text"""
_REMOVE = """
DELETE FROM auto_replies WHERE organisation_id = $1 AND action = $2 AND number = $3 AND language = $4"""


class AutoReplyBook:
    """Reads and changes the replies. Every call raises Unavailable."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def of(self, organisation_id: int) -> list[AutoReply]:
        """Those of one organisation, in order. Raises Refusal 404."""
        async with self._pool.connection() as connection:
            if await connection.fetchval(_EXISTS, organisation_id) is None:
                raise no_organisation()
            return [_reply(row) for row in await connection.fetch(_OF_ONE, organisation_id)]

    async def replies(self, organisation_ids: Sequence[int]) -> list[tuple[int, AutoReply]]:
        """(organisation, reply) of some organisations."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_OF_SOME, list(organisation_ids))
        return [(row[0], _reply(tuple(row)[1:])) for row in rows]

    async def put(self, organisation_id: int, wanted: AutoReply) -> AutoReply:
        """Add a reply, or change its text; as it is kept. Raises Refusal 404, 409, 422."""
        wanted = _checked(wanted)
        key = (wanted.action, wanted.number, wanted.language)
        async with self._pool.transaction() as connection:
            known = await self._known(connection, organisation_id)
            before = known.get(key)
            if before == wanted:
                return wanted
            if before is None and len(known) >= REPLIES_OF_ONE_MAX:
                detail = f"An organisation has at most {REPLIES_OF_ONE_MAX} replies; remove one first."
                raise Refusal("too_many_auto_replies", 409, detail)
            await connection.execute(_WRITE, organisation_id, *key, wanted.text)
            was = None if before is None else asdict(before)
            await note_change(connection, was, asdict(wanted), organisation_id)
        return wanted

    async def remove(self, organisation_id: int, action: str, number: str, language: str) -> None:
        """Remove a reply, if there is one. Raises Refusal 404, 422."""
        key = (action, _number(number), _language(language))
        async with self._pool.transaction() as connection:
            before = (await self._known(connection, organisation_id)).get(key)
            if before is not None:
                await connection.execute(_REMOVE, organisation_id, *key)
                await note_change(connection, asdict(before), {"removed": True}, organisation_id)

    async def _known(self, connection: Any, organisation_id: int) -> dict[tuple[str, str, str], AutoReply]:
        if await connection.fetchval(_LOCK, organisation_id) is None:
            raise no_organisation()
        rows = map(_reply, await connection.fetch(_OF_ONE, organisation_id))
        return {(reply.action, reply.number, reply.language): reply for reply in rows}


def _checked(reply: AutoReply) -> AutoReply:
    """The reply in the form in which it is kept. Raises Refusal 422."""
    return AutoReply(
        action=reply.action,
        number=_number(reply.number),
        language=_language(reply.language),
        text=reply.text,
    )


def _number(number: str) -> str:
    return own_number("number", number, "; or empty, for every number") if number else ""


def _language(language: str) -> str:
    if language and not _LANGUAGE.fullmatch(language):
        detail = "`language` must be a code of ISO 639, such as de; or empty, for every language."
        raise Refusal("invalid_field", 422, detail, "language")
    return language


def _reply(row: Any) -> AutoReply:
    return AutoReply(action=row[0], number=row[1], language=row[2], text=row[3])
