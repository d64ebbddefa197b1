"""Whether there is an organisation that an operator asks for, where records would only be empty."""

from __future__ import annotations

from contextlib import suppress

from engine.api.ports import Directory
from engine.errors import Unavailable


async def check_exists(directory: Directory, organisation_id: int) -> None:
    """Raises Refusal 404 when there is none: a wrong id must not look as one that sent nothing.

    While PostgreSQL is away nobody knows; then nothing is raised, for the records are in ClickHouse."""
    with suppress(Unavailable):
        await directory.organisation(organisation_id)
