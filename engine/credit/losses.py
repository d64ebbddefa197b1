"""Which of the two went back when a shard's books and its usage do not fit: Redis or PostgreSQL.

The ledger leaves a note in Redis after each transaction and whenever it begins to lead: how far the books
are and in which term (`BookedNote`). The term, the position and the rows of answers only go up, so

- books that are behind the note, or that have not numbered as many answers as Redis was given, went back:
  an asynchronous standby was promoted, or a backup restored;
- usage that lacks what the books have applied, or what was read of it, means that Redis went back. What is
  before the note is no sign of that: Redis had it when it was given the note, and it was trimmed since.

Both may have gone back. Books that went back apply the usage behind their position again, when all of it is
still on the stream. When some of it was trimmed, the books of the shard are closed with what Redis has.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from engine.credit.ledger_records import Recovered, ShardLife, StreamMark
from engine.errors import Broken

Who = Literal["", "redis", "postgres", "both"]

# The end of the name of a generation that begins because both went back: a close that was cut short says by
# it what it was for.
BOTH = ".both"


class Loss(msgspec.Struct, frozen=True):
    """What became of a shard."""

    # Who went back: Redis, PostgreSQL, or each of them; "" when nobody did.
    who: Who = ""
    # Why its books must be closed, for the log and the journal; "" when they need not be.
    cause: str = ""


def loss_of(life: ShardLife, recovered: Recovered, furthest: StreamMark, beyond: ShardLife) -> Loss:
    """What became of the shard; `life` is compared with the mark in the books.

    `furthest`: the furthest entry that is known of the shard, applied or only read. `beyond`: the life of
    the shard, compared with that. Raises Broken when this is another Redis than the one in the books.
    """
    shard = life.shard
    generation = recovered.generations.get(shard)
    if generation is None:
        return Loss()
    note = life.note
    if note is not None and generation in note.former:
        return Loss("postgres", f"PostgreSQL went back to a time before generation {note.generation}")
    mark = recovered.marks[shard]
    behind = note is not None and note.generation == generation and note.position > mark.position
    if life.generation is None or life.generation.startswith("closing:"):
        # `closing:` with the generation in the books: the books are closed, and a ledger ended
        # before it could tell Redis.
        if life.generation != f"closing:{generation}":
            # The note outlasts a close that the books do not know of.
            if life.generation is not None and life.generation.endswith(BOTH):
                return _both(generation)
            return (
                _behind_usage(generation) if behind else Loss("redis", f"Redis lost generation {generation}")
            )
    elif life.generation in recovered.former[shard]:
        return Loss("redis", f"Redis went back to a time before generation {generation}")
    elif life.generation != generation:
        raise Broken("Redis is not the one the books refer to; point `redis.url` to the right server.")
    whole = goes_on(mark, life)
    # Redis is where it was given the note, or further, so what it lacks before the note was trimmed.
    trimmed = not whole and behind and life.last_position >= note.position  # type: ignore[union-attr]
    seen = goes_on(furthest, beyond) or (trimmed and furthest.position <= note.position)  # type: ignore[union-attr]
    went_back = (
        behind or life.delivered > recovered.last_answer or (note is not None and note.term >= recovered.term)
    )
    if not (whole or trimmed) or not seen or life.delivered < recovered.delivered[shard]:
        if went_back:
            return _both(generation)
        return Loss("redis", f"Redis went back in generation {generation}")
    if trimmed:
        return _behind_usage(generation)
    return Loss("postgres") if went_back else Loss()


def _both(generation: str) -> Loss:
    return Loss("both", f"PostgreSQL and Redis went back in generation {generation}")


def _behind_usage(generation: str) -> Loss:
    return Loss("postgres", f"PostgreSQL went back behind the usage that generation {generation} has")


def goes_on(mark: StreamMark, life: ShardLife) -> bool:
    """Whether the shard still has the entry at `mark`; `life` is what it answered about that mark."""
    return life.last_position >= mark.position and follows(mark, life.follows)


def follows(mark: StreamMark, link: str) -> bool:
    """Whether an entry that follows `link` is the next one after `mark`.

    Redis may have lost entries and have been given others since, even as many and under the same
    ids. The link is a digest of the whole history, so it is then another one.
    """
    return mark.link == link
