"""A simulated Redis: the commands that the engine uses, executed one after another.

`tests/simulation/test_model.py` compares this with a real server.
"""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from engine.stores.redis.lua_libraries import versioned
from engine.stores.redis.wire import ReplyError
from tests.simulation.clock import Clock
from tests.simulation.redis_functions import Functions
from tests.simulation.redis_hashes import Hashes
from tests.simulation.redis_store import Store, Watch, as_bytes, format_id, parse_id, run_id
from tests.simulation.replica import Replica
from tests.simulation.wires import BLOCKED, Call, Wire

_VERSION = versioned("")


class _Parked:
    """A read that waits for entries."""

    def __init__(self, wire: Wire, call: Call, command: tuple[Any, ...], keys: list[bytes]) -> None:
        self.wire = wire
        self.call = call
        self.command = command
        self.keys = keys
        self.over = False


class RedisServer(Hashes):
    """Commands in, replies out; one after another."""

    def __init__(self, clock: Clock, watch: Watch, functions: type[Functions] = Functions) -> None:
        self.clock = clock
        self.up = True
        self.life = 0
        self.busy_until = 0.0
        self.wires: set[Wire] = set()
        self.store = Store(clock, watch)
        self.functions = functions(self.store)
        self.has_functions = True
        # At `maxmemory`.
        self.full = False
        # Called before this function is carried out.
        self.before: tuple[str, Callable[[], None]] | None = None
        # Called once a flush with messages was applied, with the wire on which it came.
        self.after_admit: Callable[[Wire], None] | None = None
        # Called once settlements were applied, with the wire on which they came.
        self.after_settle: Callable[[Wire], None] | None = None
        self._parked: dict[bytes, list[_Parked]] = {}
        self.replica = Replica()

    def execute(self, wire: Wire | None, call: Call | None, command: tuple[Any, ...]) -> Any:
        if command[0] == "FCALL":
            # From here on a function has the name that it has in the Lua file.
            command = (command[0], command[1].removesuffix(_VERSION), *command[2:])
        if command[0] == "FCALL" and self.before is not None and self.before[0] == command[1]:
            self.before[1]()
        if command[0] == "WAIT":
            # Of what came on this wire.
            return int(self.replica.has(wire.session.get("offset", 0) if wire is not None else 0))
        reply = self._run(command)
        if command[0] == "FCALL":
            self.replica.offset += 1
            if wire is not None:
                wire.session["offset"] = self.replica.offset
        if reply is BLOCKED and wire is not None and call is not None:
            self._park(wire, call, command)
            return BLOCKED
        self.store.watch.done(command, reply)
        if self.after_admit is not None and wire is not None and command[:2] == ("FCALL", "admit"):
            after, self.after_admit = self.after_admit, None
            after(wire)
        if self.after_settle is not None and wire is not None and command[:2] == ("FCALL", "settle"):
            after, self.after_settle = self.after_settle, None
            after(wire)
        if self.store.grown:
            self._serve_parked()
        return None if reply is BLOCKED else reply

    def hung_up(self, wire: Wire) -> None:
        for waiting in self._parked.values():
            for parked in waiting:
                parked.over = parked.over or parked.wire is wire

    def stop(self) -> None:
        """All connections break; what has not been carried out never will be."""
        self.up = False
        self.life += 1
        self.store.run = run_id(self.life)
        self._parked.clear()
        for wire in sorted(self.wires, key=hash):
            wire.fail()
        self.wires.clear()

    def lose(self, kept: dict[bytes, Any] | None = None) -> None:
        """All data is gone, or what came after `kept` was made by `snapshot`."""
        self.store.db = {} if kept is None else copy.deepcopy(kept)
        self.has_functions = kept is not None

    def snapshot(self) -> dict[bytes, Any]:
        return copy.deepcopy(self.store.db)

    # -- within

    def _time(self) -> list[bytes]:
        seconds, microseconds = divmod(self.store.now_us(), 1_000_000)
        return [b"%d" % seconds, b"%d" % microseconds]

    def _run(self, command: tuple[Any, ...]) -> Any:
        try:
            if command[0] == "FCALL":
                if not self.has_functions:
                    raise ReplyError("ERR Function not found")
                if self.full and command[1] == "admit":
                    raise ReplyError("OOM command not allowed when used memory > 'maxmemory'.")
                keys = command[3 : 3 + command[2]]
                return getattr(self.functions, command[1])(keys, command[3 + command[2] :])
            return getattr(self, f"_{command[0].lower()}")(*command[1:])
        except ReplyError as e:
            return e

    def _park(self, wire: Wire, call: Call, command: tuple[Any, ...]) -> None:
        keys, _ = _streams(command)
        parked = _Parked(wire, call, command, keys)
        for key in keys:
            self._parked.setdefault(key, []).append(parked)
        block_ms = command[command.index("BLOCK") + 1]
        if block_ms:
            self.clock.after(block_ms / 1000, self._give_up, parked)

    def _serve_parked(self) -> None:
        grown, self.store.grown = sorted(self.store.grown), set()
        for key in grown:
            for parked in self._parked.pop(key, ()):
                if parked.over:
                    continue
                reply = self._run(parked.command)
                if reply is BLOCKED:
                    self._parked.setdefault(key, []).append(parked)
                else:
                    parked.over = True
                    parked.wire.answer(parked.call, reply)

    def _give_up(self, parked: _Parked) -> None:
        if not parked.over and parked.wire.life == self.life:
            parked.over = True
            parked.wire.answer(parked.call, None)

    def _ping(self) -> bytes:
        return b"PONG"

    def _function(self, what: str, *_: Any) -> Any:
        if what == "LIST":
            return []
        self.has_functions = True
        return b"smsengine"

    def _info(self, _: str) -> bytes:
        used = 100 if self.full else 0
        memory = b"# Memory\r\nused_memory:%d\r\nmaxmemory:100\r\n" % used
        return b"# Server\r\nrun_id:%b\r\n" % self.store.run + memory

    def _get(self, key: bytes) -> bytes | None:
        return self.store.db.get(key)

    def _set(self, key: bytes, value: str) -> bytes:
        self.store.db[key] = as_bytes(value)
        return b"OK"

    def _zcount(self, key: bytes, _: str, score_max: int) -> int:
        return len(self.store.zrange(key, score_max))

    def _xlen(self, key: bytes) -> int:
        return len(self.store.db[key].ids) if key in self.store.db else 0

    def _xrange(self, key: bytes, first: bytes | str, last: str, _: str, count: int) -> list[Any]:
        stream, start = self.store.db.get(key), as_bytes(first)
        ms, sequence = parse_id(start.lstrip(b"(-") or b"0")
        after = (ms, sequence if start.startswith((b"(", b"-")) else sequence - 1)
        ids = [] if stream is None else stream.behind(after, count)
        if last != "+":
            ids = [i for i in ids if i <= parse_id(as_bytes(last))]
        return [[format_id(i), stream.fields[i]] for i in ids]

    def _xtrim(self, key: bytes, _: str, least: str) -> int:
        stream = self.store.stream(key)
        gone = stream.ids[: bisect_left(stream.ids, parse_id(as_bytes(least)))]
        for entry_id in gone:
            stream.remove(entry_id)
        return len(gone)

    def _xinfo(self, _: str, key: bytes) -> list[Any]:
        if key not in self.store.db:
            raise ReplyError("ERR no such key")
        stream = self.store.stream(key)
        return [b"length", len(stream.ids), b"last-generated-id", format_id(stream.last)]

    def _xread(self, *arguments: Any) -> Any:
        count = arguments[arguments.index("COUNT") + 1]
        found = []
        for key, position in zip(*_streams(("XREAD", *arguments)), strict=True):
            stream = self.store.db.get(key)
            if stream is not None and stream.last > (after := parse_id(as_bytes(position))):
                entries = [[format_id(i), stream.fields[i]] for i in stream.behind(after, count)]
                if entries:
                    found.append([key, entries])
        return found or (BLOCKED if "BLOCK" in arguments else None)

    def _xreadgroup(self, _: str, group: bytes, name: str, *arguments: Any) -> Any:
        count = arguments[arguments.index("COUNT") + 1]
        consumer, found = as_bytes(name), []
        for key in _streams(("XREADGROUP", *arguments))[0]:
            given = self.store.group(key, group)
            given.consumers.add(consumer)
            stream = self.store.db[key]
            entries = []
            for entry_id in stream.behind(given.last, count):
                given.last = entry_id
                given.pending[entry_id] = [consumer, self.store.now_ms(), 1]
                entries.append([format_id(entry_id), stream.fields[entry_id]])
            if entries:
                found.append([key, entries])
        return found or (BLOCKED if "BLOCK" in arguments else None)

    def _xpending(self, key: bytes, group: bytes, *rest: Any) -> Any:
        if not rest:
            # How many, without the rest of the summary.
            return [len(self.store.group(key, group).pending)]
        _, idle_ms, start, *rest = rest  # type: ignore[assignment]
        return self.store.xpending(key, group, idle_ms, as_bytes(start), rest[1], as_bytes(rest[2]))

    def _xclaim(
        self, key: bytes, group: bytes, name: str, idle_ms: int, entry_id: bytes, _: str, given: int
    ) -> Any:
        self.store.group(key, group)
        return self.store.xclaim(key, group, as_bytes(name), idle_ms, parse_id(entry_id), given)


def _streams(command: tuple[Any, ...]) -> tuple[list[bytes], list[Any]]:
    """The keys and positions behind STREAMS."""
    rest = command[command.index("STREAMS") + 1 :]
    return list(rest[: len(rest) // 2]), list(rest[len(rest) // 2 :])
