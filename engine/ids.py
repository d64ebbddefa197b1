"""Message ids: UUIDs of version 7 (RFC 9562, 5.7), so that text order is time order."""

from __future__ import annotations

from random import Random

_COUNTER_MASK = (1 << 48) - 1
# The last two of the digits of a counter.
_ENDS = [f"{end:02x}" for end in range(256)]


class MessageIds:
    """Makes the ids of one process.

    `salt` is 26 random bits, `start` 48. Two processes make the same id only when they have the
    same millisecond, salt and counter.
    """

    def __init__(self, salt: int, start: int) -> None:
        self._fixed = f"-7{salt >> 14 & 0xFFF:03x}-{0x8000 | salt & 0x3FFF:04x}-"
        self._counter = start & _COUNTER_MASK
        # What the ids of one millisecond begin with.
        self._now_ms = -1
        self._head = ""

    @classmethod
    def drawn(cls, rng: Random) -> MessageIds:
        """Those of a process with a salt and a start drawn from `rng`."""
        return cls(rng.getrandbits(26), rng.getrandbits(48))

    def make(self, now_ms: int, count: int) -> list[str]:
        """`count` ids of the millisecond `now_ms`, each one more than the one before."""
        if now_ms != self._now_ms:
            self._now_ms = now_ms
            self._head = f"{now_ms >> 16:08x}-{now_ms & 0xFFFF:04x}{self._fixed}"
        head = self._head
        # The ids of one call follow one another, so the counter does not wrap among them.
        first = self._counter if self._counter + count <= _COUNTER_MASK + 1 else 0
        if count == 1:
            self._counter = (first + 1) & _COUNTER_MASK
            return [f"{head}{first:012x}"]
        self._counter = (first + count) & _COUNTER_MASK
        made: list[str] = []
        while count:
            # To write a number costs four times what it costs to put its end behind its begin.
            some = _ENDS[first & 0xFF :][:count]
            begin = f"{head}{first >> 8:010x}"
            made += [begin + end for end in some]
            first, count = first + len(some), count - len(some)
        return made


def accepted_at_us(message_id: str) -> int | None:
    """When the message was accepted, microseconds, exact to the millisecond; None when it is no such id."""
    if len(message_id) != 36 or message_id[14] != "7":
        return None
    digits = message_id.replace("-", "")
    if len(digits) != 32 or any(message_id[i] != "-" for i in (8, 13, 18, 23)):
        return None
    try:
        return (int(digits, 16) >> 80) * 1000
    except ValueError:
        return None
