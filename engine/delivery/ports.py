"""What delivery asks of the queue's streams.

Deadlines: every coroutine here ends within the time its adapter was built with, or
raises `Unavailable`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from engine.delivery.sent import SentEntries
from engine.records import (
    Entry,
    Queue,
    Settlement,
)


class PutOff(NamedTuple):
    """The messages of one way (`engine.delivery.ways`) that are put off in one shard."""

    shard: int
    # The number of the way there.
    number: int
    way: str
    # 0: none is left, and the way is to be recalled once more to be forgotten.
    messages: int
    # The sum of the weights of their organisations, without those that are paused.
    weight: float


class Recall(NamedTuple):
    """What is to be moved to the ready stream of what is put off: so many messages of a way, and no more once
    they have so many segments."""

    shard: int
    number: int
    way: str
    messages: int
    segments: int
    # The version of the routing plan that is in force, where it is not that of the way; 0: it is.
    plan: int = 0


class UnreadMessages(Protocol):
    """The messages of one queue that no worker has been given, all shards."""

    async def look(self, limit: int) -> list[Entry]:
        """The next `limit` messages or fewer. They stay where they are.

        Call after call goes on through each shard, and begins at its head again after its end.
        """

    async def settle(self, settlements: Sequence[Settlement]) -> int:
        """Settle messages that still no worker has been given; returns how many counted.

        The others stay with their worker. One settlement of a message counts.
        """


class PutOffMessages(Protocol):
    """The messages of one queue that are put off in ways (`engine.delivery.ways`), all shards."""

    @property
    def waiting(self) -> Sequence[PutOff]:
        """What is put off, as far as is known: as of the last `promote`, and what was recalled since."""

    @property
    def allowed(self) -> bool:
        """Whether messages may be put off so: every living process knows ways."""

    async def recall(self, recalls: Sequence[Recall]) -> list[tuple[int, int]]:
        """Move messages to the queue; returns how many of each of `recalls`, and their segments."""


class Apart(NamedTuple):
    """What is between two reads of what has a backlog."""

    # So much time, seconds.
    seconds: float = 0.0
    # What is called right before the second is written: True: more comes in the next turn of our loop, to be
    # written with it.
    read_comes: Callable[[], bool] = lambda: False


class QueueReader(Protocol):
    """The worker's side of a queue's streams, all shards of one queue."""

    # So many messages shall lie ready to be read, all shards together. What waits behind them is still in its
    # organisation's turn. Whoever reads may set it.
    ready_max: int
    # Whether there is room at any time for what comes where nobody waits. Then what waits in several shards
    # is left there until it is read. Whoever reads may set it.
    reads_aside: bool
    # What is between two reads of what has a backlog. Whoever reads may set it.
    apart: Apart
    # So many messages are sent in 20 ms, all shards together; turns are measured by that. Whoever reads may
    # set it.
    moment: int
    # When the first message is due that the last `promote` has left, microseconds since 1970; None: none was.
    next_due_us: int | None

    @property
    def more(self) -> bool:
        """Whether more waits than the last read gave, as far as is known."""

    @property
    def took_s(self) -> float | None:
        """How long the read took whose messages were given last, seconds; None: it waited for messages, or
        for those that come where nobody waits."""

    @property
    def queue(self) -> Queue:
        """The queue that is read."""

    @property
    def put_off(self) -> PutOffMessages:
        """What is put off."""

    @property
    def unread(self) -> UnreadMessages:
        """What no worker has been given."""

    async def read(self, count: int, block_ms: int) -> list[Entry]:
        """Read about `count` new messages: at most `count` + shards, or more where bundles come that are
        larger than those before. Waits up to `block_ms` for the first. What comes where nobody waits is given
        as soon as it is there, before what is read of a backlog."""

    async def rest(self) -> list[Entry]:
        """What has been asked for and not been given yet, when nothing is to be read before that is known.
        It never raises Unavailable."""

    async def settle(self, settlements: Sequence[Settlement], sent: Sequence[SentEntries] = ()) -> int:
        """Settle entries in one round trip; returns how many of the settlements counted.

        `sent`: entries that are settled in the ordinary way. One settlement of an entry counts. Done again,
        the same settlements count nothing. So after Unavailable, call it again with the same ones. Several
        calls may be under way, of different entries.
        """

    def drop(self, entries: Sequence[Entry]) -> None:
        """Give up entries that are neither sent nor settled.

        They stay pending. A later `read` gives them to this worker again, unless another worker has
        taken them over.
        """

    async def beat(self) -> None:
        """Show that this worker lives. A worker that was fenced meanwhile joins again."""

    async def promote(self, now_us: int, limit: int) -> int:
        """Move messages that are due at `now_us` to the queue, up to `limit` a shard; returns how many."""

    async def take_over(self, min_idle_ms: int, limit: int) -> list[Entry]:
        """Take over about `limit` entries (at most two a shard more).

        They are entries of workers that are fenced, entries that were given out `min_idle_ms` ago or
        before, and entries that were given to this worker in an answer that never came.
        """
