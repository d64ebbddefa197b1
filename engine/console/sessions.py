"""Sessions of the console: who has logged in, as Redis keeps it and as this process remembers it.

A session stands for a key, which is looked up at every request as if the request brought it
(`engine.api.key_cache`): a key that is revoked ends its sessions. Its id is 256 random bits in a cookie.
Redis has the digest of that alone: all nodes know the session, and no reader of Redis can use it.

    not used for `IDLE_S`            it has ended
    `AGE_S` after it was opened      the same, however it is used
    more than `PER_KEY_MAX` of       the oldest of the key ends
    one key
    Redis away                       one that this process saw less than `STALE_S` ago is good; nobody can log
                                     in or out
    Redis loses data                 whoever was logged in logs in again
    logged out on another node       ends here within `FRESH_S`
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import msgspec

from engine.console.records import Kind, Session, digest_of
from engine.errors import Refusal, Unavailable

# Seconds, all of them.
IDLE_S = 3_600
AGE_S = 12 * 3_600
FRESH_S = 0.5
STALE_S = 300.0
PER_KEY_MAX = 20
_REMEMBERED_MAX = 10_000

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Session).decode


class SessionStore(Protocol):
    """Where sessions are kept, by their digests. Every call raises Unavailable."""

    async def keep(self, owner: str, digest: bytes, session: bytes) -> None:
        """Keep one of `owner`, whose oldest is dropped when it has too many."""

    async def use(self, digest: bytes) -> bytes | None:
        """One that is used now; None when it has ended or never was."""

    async def drop(self, digest: bytes) -> None:
        """Forget one."""


class Sessions:
    """The sessions of the console. One per process, on its loop."""

    def __init__(
        self,
        store: SessionStore,
        now_us: Callable[[], int],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._now_us = now_us
        self._clock_s = clock_s
        # By digest, the least recently seen first: the session, and when Redis had it.
        self._seen: OrderedDict[bytes, tuple[Session, float]] = OrderedDict()

    async def open(self, kind: Kind, key_id: int, key_sha256: bytes) -> tuple[str, Session]:
        """(id, session) of a new one for a key that was found good. Raises Unavailable."""
        session_id = secrets.token_urlsafe(32)
        session = Session(kind=kind, key_id=key_id, key_sha256=key_sha256, opened_at_us=self._now_us())
        await self._store.keep(f"{kind}:{key_id}", digest_of(session_id), _encode(session))
        return session_id, session

    async def found(self, session_id: str) -> Session:
        """The session of this id. Raises Refusal 401 when there is none, Unavailable."""
        digest = digest_of(session_id)
        known, seen_at_s = self._seen.get(digest, (None, 0.0))
        age_s = self._clock_s() - seen_at_s
        session = known if known is not None and age_s < FRESH_S else await self._looked_up(digest)
        if session is None or self._now_us() - session.opened_at_us >= AGE_S * 1_000_000:
            self._seen.pop(digest, None)
            raise no_session()
        return session

    async def close(self, session_id: str) -> None:
        """End a session, if there is one. Raises Unavailable: then it may have ended or not."""
        digest = digest_of(session_id)
        self._seen.pop(digest, None)
        await self._store.drop(digest)

    async def _looked_up(self, digest: bytes) -> Session | None:
        at_s = self._clock_s()
        try:
            kept = await self._store.use(digest)
        except Unavailable:
            known, seen_at_s = self._seen.get(digest, (None, 0.0))
            if known is None or at_s - seen_at_s >= STALE_S:
                raise
            return known
        session = _session(kept)
        if session is None:
            self._seen.pop(digest, None)
            return None
        self._seen[digest] = session, at_s
        self._seen.move_to_end(digest)
        if len(self._seen) > _REMEMBERED_MAX:
            self._seen.popitem(last=False)
        return session


def no_session() -> Refusal:
    """A 401 that says the same whether a session is missing, over or unknown."""
    return Refusal("unauthorised", 401, "There is no session, or it has ended; log in with a key.", "Cookie")


def _session(kept: bytes | None) -> Session | None:
    """None also for one that another version of the engine has kept."""
    try:
        return None if kept is None else _decode(kept)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
