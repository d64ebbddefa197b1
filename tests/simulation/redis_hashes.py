"""The commands of a simulated Redis on hashes, and on keys of any kind."""

from __future__ import annotations

from typing import Any

from engine.redis_keys import FORMATS_READ, FUNCTIONS_LOADED
from engine.stores.redis import own_notes
from tests.simulation.redis_store import Store, as_bytes


class Hashes:
    """A part of `redis_server.RedisServer`."""

    store: Store

    def _del(self, key: bytes) -> int:
        return int(self.store.db.pop(key, None) is not None)

    def _hget(self, key: bytes, name: str | bytes) -> bytes | None:
        return self._hmget(key, name)[0]

    def _hmget(self, key: bytes, *names: str | bytes) -> list[bytes | None]:
        return [self.store.db.get(key, {}).get(as_bytes(name)) for name in names]

    def _hgetall(self, key: bytes) -> list[bytes]:
        return [part for pair in self.store.db.get(key, {}).items() for part in pair]

    def _hkeys(self, key: bytes) -> list[bytes]:
        return list(self.store.db.get(key, {}))

    def _hset(self, key: bytes, *pairs: Any) -> int:
        """Only the notes of functions loaded, formats read and books applied are written so."""
        assert key in (FUNCTIONS_LOADED, FORMATS_READ) or pairs[0] == "books"
        self.store.hash(key).update(
            {as_bytes(k): as_bytes(v) for k, v in zip(pairs[::2], pairs[1::2], strict=True)}
        )
        return 1

    def _eval(self, script: str, count: int, key: bytes, name: str, note: str, *gone: Any) -> None:
        """Notes alone are written by a script: see `own_notes`."""
        assert (script, count, key) == (own_notes._NOTED, 1, FORMATS_READ)
        self._hset(key, name, note)
        for old, said in zip(gone[::2], gone[1::2], strict=True):
            if self._hget(key, old) == as_bytes(said):
                del self.store.hash(key)[as_bytes(old)]
