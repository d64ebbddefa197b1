"""The id of an entry on a Redis stream."""

from __future__ import annotations

from typing import NamedTuple


class StreamId(NamedTuple):
    """Milliseconds since 1970 by Redis' clock, and a number within the millisecond.

    Ids compare in the order of the stream. In MessagePack an id is an array of its two
    numbers; Redis writes it `<ms>-<sequence>`
    (https://redis.io/docs/latest/develop/data-types/streams/#entry-ids).
    """

    ms: int
    sequence: int

    @classmethod
    def parse(cls, text: bytes | str) -> StreamId:
        """Read an id as Redis writes it. Raises ValueError for anything else."""
        octets = text if isinstance(text, bytes) else text.encode()
        ms, dash, sequence = octets.partition(b"-")
        if not (dash and ms.isdigit() and sequence.isdigit()):
            raise ValueError(f"no stream id: {text!r}")
        return cls(int(ms), int(sequence))

    def __str__(self) -> str:
        """The id as Redis writes it."""
        return f"{self.ms}-{self.sequence}"

    @property
    def next(self) -> StreamId:
        """The smallest id after this one."""
        return StreamId(self.ms, self.sequence + 1)


# The place before every entry, from which a stream is read from its start.
STREAM_START = StreamId(0, 0)
