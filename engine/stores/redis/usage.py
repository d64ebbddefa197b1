"""The ledger's side of the shards in Redis: usage streams, inboxes, generations."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from engine import redis_keys as keys
from engine.credit.ledger_records import (
    BalanceEvent,
    BookedNote,
    RemainingUnits,
    ShardLife,
    StoredAnswer,
    StreamMark,
    UsageEntry,
)
from engine.credit.posting import known
from engine.errors import Broken, Unavailable
from engine.records import QUEUES
from engine.stores.redis.admission import fence_command
from engine.stores.redis.books_notes import BooksNotes, steps
from engine.stores.redis.link import Argument, Command, RedisLink, load_functions
from engine.stores.redis.lua_libraries import versioned
from engine.stores.redis.wire import ReplyError
from engine.stream_id import STREAM_START, StreamId

# A living holder reads its inbox at once. These bound the inbox of one that is gone: entries, and
# seconds after the last one.
_INBOX_MAX = 10_000
_INBOX_TTL_S = 86400
# Entries of usage read at a time while a shard is closed.
_PAGE = 500
# Times that the holders of a shard are read before it is not closed now.
_SEAL_TRIES = 20

_encode = msgspec.msgpack.Encoder().encode


class RedisUsage(BooksNotes):
    """The port `UsageStream`. Every call raises Unavailable, and Broken when Redis refuses a command."""

    def __init__(self, link: RedisLink, read_link: RedisLink, shards: int) -> None:
        """`link` is for commands; `read_link` blocks while it waits for entries."""
        super().__init__(link, shards)
        self._read_link = read_link

    async def read(self, positions: Mapping[int, StreamId], count: int, block_ms: int) -> list[UsageEntry]:
        """Up to `count` entries of each shard after its position, in the order of the streams.

        Waits up to `block_ms` milliseconds for the first one; [] when none came.
        """
        streams = {keys.usage_key(s): s for s in positions}
        reply = await self._read_link.call(
            "XREAD", "COUNT", count, "BLOCK", block_ms, "STREAMS", *streams,
            *map(str, positions.values()),
            timeout_s=block_ms / 1000 + 5,
        )  # fmt: skip
        return [
            usage_entry(streams[key], entry_id, fields)
            for key, entries in reply or ()
            for entry_id, fields in entries
        ]

    async def send(
        self,
        answers: Sequence[StoredAnswer],
        before: Mapping[int, int],
        notes: Mapping[int, BookedNote] = MappingProxyType({}),
    ) -> None:
        """Append answers to the inboxes: see `deliver` in inbox.lua.

        `notes`: by shard how far the books are, kept in the head of its stream. One of a ledger that has
        been deposed may come late; the next one corrects it. `before`: by shard, the row of the last answer
        that it was given. Raises Unavailable when a shard has lost it; that shard is then given nothing,
        the others are.
        """
        by_shard: dict[int, list[StoredAnswer]] = {}
        for answer in answers:
            by_shard.setdefault(answer.shard, []).append(answer)
        delivering = [_deliver(s, of, before.get(s, 0)) for s, of in by_shard.items()]
        noting: list[Command] = [
            ("FCALL", versioned("note_books"), 1, keys.usage_head_key(s), _note_text(note))
            for s, note in notes.items()
        ]
        replies = await steps(self._link, [*delivering, *noting])
        if not all(replies[: len(delivering)]):
            raise Unavailable("Redis has lost answers that were in its inboxes.")

    async def announce(self, events: Sequence[BalanceEvent]) -> None:
        """Append events to the activity streams; those that are there already are passed over."""
        by_shard: dict[int, list[bytes | int]] = {}
        for event in events:
            by_shard.setdefault(event.shard, []).extend((event.row_id, _encode(event.activity())))
        await steps(
            self._link,
            [
                ("FCALL", versioned("announce"), 2, keys.activity_key(s), keys.announced_key(s), *numbered)
                for s, numbered in by_shard.items()
            ],
        )

    async def trim(self, positions: Mapping[int, StreamId]) -> None:
        """Delete the entries of each shard's stream up to and including its position."""
        await steps(
            self._link,
            [("XTRIM", keys.usage_key(s), "MINID", str(position.next)) for s, position in positions.items()],
        )

    async def spending(self, shards: Sequence[int]) -> list[tuple[int, str]]:
        """(shard, name) of each holder that has sent a flush in its present epoch, and so may have quota.

        Workers are not among them, since they send none.
        """
        named = await steps(self._link, [("HKEYS", keys.holders_key(s)) for s in shards])
        holders = [(s, name.decode()) for s, names in zip(shards, named, strict=True) for name in names]
        states = await steps(self._link, [("HGETALL", keys.holder_key(*holder)) for holder in holders])
        return [
            holder
            for holder, flat in zip(holders, states, strict=True)
            if int(dict(zip(flat[::2], flat[1::2], strict=True)).get(b"seq", 0))
        ]

    async def overdue(self, age_ms: int) -> list[tuple[int, str]]:
        """(shard, name) of each holder whose last beat is more than `age_ms` milliseconds ago."""
        replies = await steps(
            self._link,
            [("FCALL", versioned("overdue"), 1, keys.holders_key(s), age_ms) for s in self._shards],
        )
        return [(s, name.decode()) for s, names in zip(self._shards, replies, strict=True) for name in names]

    async def fence(self, holders: Sequence[tuple[int, str]]) -> None:
        """Fence holders, given as (shard, name): see `fence` in functions/queue."""
        await steps(self._link, [fence_command(shard, name) for shard, name in holders])

    async def prepare(self) -> None:
        """Load the functions, and make `credit:{s}:held:by` where an older version kept no such hash.

        Reads every message of such a shard once: see `tally` in functions/queue.
        """
        await load_functions(self._link)
        for s in self._shards:
            await steps(self._link, [("FCALL", versioned("tally"), len(_held_keys(s)), *_held_keys(s))])

    async def lives(self, marks: Mapping[int, StreamMark]) -> list[ShardLife]:
        """The life of every shard, in order of the shards, in one round trip.

        A shard that is not in `marks` is compared with the start of its stream.
        """
        commands: list[Command] = [("INFO", "server")]
        for s in self._shards:
            usage, position = keys.usage_key(s), marks.get(s, StreamMark()).position
            # The head is read before the entries, so that an entry appended in between is seen with
            # the link it follows.
            commands += [
                ("GET", keys.generation_key(s)),
                ("HGETALL", keys.usage_head_key(s)),
                ("XINFO", "STREAM", usage),
                ("XRANGE", usage, f"({position}", "+", "COUNT", 1),
            ]
        # One connection, so all replies are of one run of Redis.
        replies = await self._link.batch(commands)
        run = _run_id(replies[0])
        return [_life(s, run, replies[at : at + 4]) for s, at in enumerate(range(1, len(replies), 4))]

    async def close(
        self, life: ShardLife, generation: str, books: str, mark: StreamMark
    ) -> dict[int, RemainingUnits]:
        """Close a shard: `seal`, read the usage that the books have not applied, `close`.

        `generation` is the new one, `books` the one in the books, and `mark` how far they have applied
        it. Returns by organisation what is left (see `close` in functions/queue). Raises Unavailable when
        the shard is not in `life` any more. Killed in between: the shard stays sealed, and the next
        ledger closes it.
        """
        shard = life.shard
        usage = keys.usage_key(shard)
        start = await self._seal(life, generation, books, mark)
        sums: dict[int, list[int]] = {}
        while True:
            page = await self._step("XRANGE", usage, start, "+", "COUNT", _PAGE)
            for entry_id, fields in page:
                add_usage(sums, usage_entry(shard, entry_id, fields))
                start = b"(" + entry_id
            if len(page) < _PAGE:
                break
        left = await self._step(
            "FCALL", versioned("close"), 3 + len(_held_keys(shard)),
            keys.generation_key(shard), usage, keys.usage_head_key(shard), *_held_keys(shard),
            generation, start, *(x for org, of in sums.items() for x in (org, *of)),
        )  # fmt: skip
        return {organisation: RemainingUnits(held, news) for organisation, held, news in left}

    async def _seal(self, life: ShardLife, generation: str, books: str, mark: StreamMark) -> Any:
        """Where the usage begins that the books have not applied: see `seal` in functions/queue.

        Raises Unavailable, also when holders come and go so fast that they cannot be named.
        """
        shard = life.shard
        for _ in range(_SEAL_TRIES):
            names = await self._step("HKEYS", keys.holders_key(shard))
            touched: list[Argument] = [
                keys.generation_key(shard), keys.holders_key(shard), keys.usage_key(shard),
                keys.usage_head_key(shard),
            ]  # fmt: skip
            for name in map(bytes.decode, names):
                touched += (keys.holder_key(shard, name), keys.inbox_key(shard, name))
            start = await self._step(
                "FCALL", versioned("seal"), len(touched), *touched,
                life.generation or "", generation, books, str(mark.position), mark.link, *names,
            )  # fmt: skip
            if start != 0:
                return start
        raise Unavailable("The holders of a shard change too fast for it to be closed.")

    async def _step(self, *command: Argument) -> Any:
        """One command of `close`. Raises Unavailable when the shard is not in the life that was seen."""
        reply = (await steps(self._link, [command]))[0]
        if reply is None:
            raise Unavailable("A shard of Redis has changed meanwhile.")
        return reply

    async def begin(self, generations: Mapping[int, str], run: str) -> None:
        """Let shards admit under their generations: see `begin` in functions/queue.

        Raises Unavailable when one was closed for another generation, or when `run` is not the
        present run of Redis; the others may have begun.
        """
        began = await steps(
            self._link,
            [
                ("FCALL", versioned("begin"), 2, keys.generation_key(s), keys.usage_head_key(s), name, run)
                for s, name in generations.items()
            ],
        )
        if not all(began):
            raise Unavailable("A shard of Redis has changed meanwhile.")


def _held_keys(shard: int) -> list[bytes]:
    """The keys of `tally` in functions/queue: the held units, in sum and by organisation, then every place of
    messages."""
    places = (keys.queue_key, keys.due_key, keys.dead_key, keys.wait_key)
    return [
        keys.held_key(shard),
        keys.held_by_key(shard),
        *(key(shard, queue) for key in places for queue in QUEUES),
    ]


def add_usage(sums: dict[int, list[int]], entry: UsageEntry) -> None:
    """Add the units of one entry to `sums`: {organisation: [used, captured, released]}.

    Raises Unavailable for an entry of a kind that this version does not know, as it may move units.
    """
    if not known(entry):
        raise Unavailable(
            f"Shard {entry.shard} has usage of the unknown kind {entry.kind!r}:"
            " its books are closed by a ledger of a newer version."
        )
    flat = msgspec.msgpack.decode(entry.data) if entry.kind in ("usage", "settle") else ()
    width = 2 if entry.kind == "usage" else 3
    for at in range(0, len(flat), width):
        of = sums.setdefault(flat[at], [0, 0, 0])
        if entry.kind == "usage":
            of[0] += flat[at + 1]
        else:
            of[1] += flat[at + 1]
            of[2] += flat[at + 2]


def usage_entry(shard: int, entry_id: bytes, fields: list[bytes]) -> UsageEntry:
    """An entry as Redis gives it: `fields` are k, kind, h, holder, e, epoch, d, data, p, link before it.

    `append` in functions/queue writes them in this order; an older version wrote no p. The entry's own link
    is the SHA-1 that `append` computes.
    """
    _, kind, _, holder, _, epoch, _, data, *chained = fields
    follows = link = ""
    if chained:
        follows = chained[1].decode()
        link = hashlib.sha1(
            b"\n".join((chained[1], entry_id, kind, holder, epoch, data)), usedforsecurity=False
        ).hexdigest()
    return UsageEntry(
        shard=shard,
        position=StreamId.parse(entry_id),
        kind=kind.decode(),  # type: ignore[arg-type]
        holder=holder.decode(),
        epoch=int(epoch),
        data=data,
        follows=follows,
        link=link,
    )


def _deliver(shard: int, answers: Sequence[StoredAnswer], before: int) -> Command:
    inboxes = list(dict.fromkeys(keys.inbox_key(shard, answer.holder) for answer in answers))
    places = {inbox: place for place, inbox in enumerate(inboxes, 1)}
    numbered: list[bytes | int] = []
    for a in answers:
        numbered += (a.row_id, places[keys.inbox_key(shard, a.holder)], a.payload)
    return (
        "FCALL", versioned("deliver"), 1 + len(inboxes), keys.usage_head_key(shard), *inboxes,
        before, _INBOX_MAX, _INBOX_TTL_S, *numbered,
    )  # fmt: skip


def _life(shard: int, run: str, replies: list[Any]) -> ShardLife:
    for reply in (replies[0], replies[1], replies[3]):
        if isinstance(reply, ReplyError):
            raise Broken(f"Redis refused a step of the ledger: {reply}")
    generation, flat, stream, behind = replies
    head = dict(zip(flat[::2], flat[1::2], strict=True))
    link = head.get(b"link", b"")
    return ShardLife(
        shard=shard,
        generation=generation and generation.decode(),
        run=run,
        seen_run=head.get(b"run", b"").decode(),
        last_position=_last_id(stream),
        follows=usage_entry(shard, *behind[0]).follows if behind else link.decode(),
        delivered=int(head.get(b"delivered", 0)),
        length=0 if isinstance(stream, ReplyError) else stream[stream.index(b"length") + 1],
        note=_note(head.get(b"books")),
        next_position=StreamId.parse(behind[0][0]) if behind else None,
        ended=StreamId.parse(head[b"since"]) if b"since" in head else None,
    )


def _note_text(note: BookedNote) -> str:
    return f"{note.generation} {note.position} {note.term} {','.join(sorted(note.former))}"


def _note(text: bytes | None) -> BookedNote | None:
    """The note that `_note_text` wrote; None when there is none."""
    if text is None:
        return None
    generation, position, term, former = text.decode().split(" ")
    names = frozenset(former.split(",")) if former else frozenset()
    return BookedNote(generation, StreamId.parse(position), int(term), names)


def _run_id(info: Any) -> str:
    """The id of the server process from the reply of INFO; functions/queue reads the same one."""
    if isinstance(info, ReplyError):
        raise Broken(f"Redis refused a step of the ledger: {info}")
    found = re.search(rb"run_id:(\w+)", info)
    return found[1].decode() if found else ""


def _last_id(stream: Any) -> StreamId:
    """`last-generated-id` in the flat reply of XINFO STREAM; a missing stream is an error reply."""
    if isinstance(stream, ReplyError):
        return STREAM_START
    return StreamId.parse(stream[stream.index(b"last-generated-id") + 1])
