"""What requests with an Idempotency-Key were answered, in Redis: for calls that do not submit messages.

A key is kept as `first_use` in functions/queue keeps it for messages, so one key is good for one request,
whatever it is. Before the call the key is noted without an answer, and with it afterwards.

    killed in between                  the key has no answer: the same request is carried out again, which all
                                       these calls bear
    the same request meanwhile         the same
    Redis has no memory left, or       the call is carried out, and may be again
    gives no answer afterwards
    Redis loses data                   keys of the lost moment are forgotten
"""

from __future__ import annotations

from collections.abc import Callable

from engine import redis_keys as keys
from engine.errors import Unavailable
from engine.records import Replay
from engine.shards import shard_of
from engine.stores.redis.link import RedisLink
from engine.stores.redis.wire import OutOfMemory, ReplyError


class RedisKeptAnswers:
    """The port `KeptAnswers`. Every call raises Unavailable when Redis does not answer."""

    def __init__(self, link: RedisLink, shards: int, ttl_s: Callable[[], int]) -> None:
        """`ttl_s`: how long a key that is first used now is remembered, seconds."""
        self._link = link
        self._shards = shards
        self._ttl_s = ttl_s

    async def first(self, organisation_id: int | None, key: str) -> Replay | None:
        """What a key was first used for; None: it was not. No organisation: a key of the operator's."""
        try:
            return _replay(await self._link.call("GET", self._name(organisation_id, key)))
        except ReplyError:
            return await self._older(self._name(organisation_id, key))

    async def begin(self, organisation_id: int | None, key: str, fingerprint: bytes) -> Replay | None:
        """Use a key; None when this is the first use of it, or Redis cannot remember it."""
        name = self._name(organisation_id, key)
        try:
            old = await self._link.call(
                "SET", name, _kept(fingerprint, b""), "NX", "GET", "EX", self._ttl_s()
            )
        except OutOfMemory:
            return None
        except ReplyError as e:
            return None if e.code == "OOM" else await self._older(name)
        return _replay(old)

    async def keep(self, organisation_id: int | None, key: str, fingerprint: bytes, answer: bytes) -> None:
        """Keep the answer to the first use of a key, if Redis remembers the key and has room."""
        kept = _kept(fingerprint, answer)
        try:
            await self._link.call("SET", self._name(organisation_id, key), kept, "XX", "EX", self._ttl_s())
        except (OutOfMemory, ReplyError, Unavailable):
            return

    async def _older(self, name: bytes) -> Replay | None:
        """As an older version kept it: a hash."""
        fingerprint, answer = await self._link.call("HMGET", name, "f", "a")
        return None if fingerprint is None else Replay(fingerprint=fingerprint, answer=answer or b"")

    def _name(self, organisation_id: int | None, key: str) -> bytes:
        if organisation_id is None:
            return keys.admin_idempotency_key(key)
        return keys.idempotency_key(shard_of(organisation_id, self._shards), organisation_id, key)


def _kept(fingerprint: bytes, answer: bytes) -> bytes:
    return bytes([len(fingerprint)]) + fingerprint + answer


def _replay(kept: bytes | None) -> Replay | None:
    if not kept:
        return None
    size = kept[0]
    return Replay(fingerprint=kept[1 : size + 1], answer=kept[size + 1 :])
