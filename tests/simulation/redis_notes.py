"""The functions by which the ledger notes how the books are (inbox.lua), for the simulated Redis."""

from __future__ import annotations

from typing import Any

from tests.simulation.redis_store import Store, as_bytes


class Notes:
    """A part of `redis_functions.Functions`."""

    store: Store

    def note_books(self, keys: Any, args: Any) -> int:
        self.store.hash(keys[0])[b"books"] = as_bytes(args[0])
        self.store.hash(keys[0]).pop(b"waits", None)
        return 1

    def note_lead(self, keys: Any, args: Any) -> int:
        head = self.store.hash(keys[0])
        if b"books" not in head or int(head[b"books"].split(b" ")[2]) > args[0]:
            return 0
        head[b"leads"] = b"%d %d" % (args[0], self.store.now_us() // 1000)
        return 1

    def note_unclosed(self, keys: Any, args: Any) -> int:
        head = self.store.hash(keys[0])
        if b"books" not in head or int(head[b"books"].split(b" ")[2]) > args[0]:
            return 0
        head.pop(b"unclosed", None)
        if args[1]:
            head[b"unclosed"] = b"%d %b" % (self.store.now_us() // 1000, as_bytes(args[1]))
        return 1

    def note_waits(self, keys: Any, args: Any) -> int:
        head = self.store.hash(keys[0])
        if b"books" not in head or int(head[b"books"].split(b" ")[2]) > args[0]:
            return 0
        head[b"waits"] = b"%d" % (self.store.now_us() // 1000)
        return 1
