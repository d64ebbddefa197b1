"""The engine's functions in Redis as the model has them. It has no chunks, so no turn of it ends with one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from engine.stores.redis.link import RedisLink
from engine.stores.redis.lua_libraries import libraries, versioned

# No turn is short enough to end with its chunk. A long chunk is not much longer than a small one may be, so
# turns go on from one to the next. How far `put_back` looks stays as it is.
_CONSTANTS = {
    b"\nlocal LONG = 8\n": b"\nlocal LONG = 0\n",
    b"\nlocal CHUNK = 8000\n": b"\nlocal CHUNK = 1600\n",
    b" and read < CHUNK do\n": b" and read < 8000 do\n",
}


@asynccontextmanager
async def without_chunks(link: RedisLink) -> AsyncIterator[None]:
    """Meanwhile no turn ends with its chunk, and chunks are small."""
    for name, code in libraries():
        changed = code
        for constant, other in _CONSTANTS.items():
            assert constant in changed or name != versioned("smsengine")
            changed = changed.replace(constant, other)
        await link.call("FUNCTION", "LOAD", "REPLACE", changed)
    yield
    for _, code in libraries():
        await link.call("FUNCTION", "LOAD", "REPLACE", code)
