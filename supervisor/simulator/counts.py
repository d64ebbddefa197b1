"""What the simulated provider has taken, by message id: the proof that nothing was lost or sent twice.

Millions of ids must fit. A UUID is kept as its 16 bytes, in one object that the order and
the set share: about 150 bytes an id in all. Counts above one are kept apart.
"""

from __future__ import annotations

from collections import deque

from supervisor.simulator._submits import take_submits

# Many small sets instead of one, so that none of them takes long to grow. A power of two.
_PARTS = 1024

Key = bytes | str

# `Flow` keeps the count of each second for this long.
SECONDS = 120


class Counts:
    """Ids taken, in order of arrival, and how often."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all ids and set the counts to 0."""
        self.received = 0
        # Each id at its first arrival.
        self._order: list[Key] = []
        self._seen: list[set[Key]] = [set() for _ in range(_PARTS)]
        self._repeated: dict[Key, int] = {}

    @property
    def distinct(self) -> int:
        """Number of different ids taken."""
        return len(self._order)

    def add(self, message_id: str) -> None:
        """Count one arrival of this id."""
        key = _key(message_id)
        self.received += 1
        # The high bits choose the part, because the set inside uses the low ones.
        part = self._seen[hash(key) >> 40 & _PARTS - 1]
        if key in part:
            self._repeated[key] = self._repeated.get(key, 1) + 1
        else:
            part.add(key)
            self._order.append(key)

    def add_submits(self, chunk: bytes, at: int, number: int) -> tuple[int, int, bytes]:
        """Count the submits that `chunk` has from `at` on: see `take_submits`."""
        end, taken, answers = take_submits(chunk, at, number, self._order, self._seen, self._repeated)
        self.received += taken
        return end, taken, answers

    def ids(self, after: int = 0, limit: int | None = None) -> list[str]:
        """Distinct ids in order of first arrival, without the first `after`, at most `limit` of them."""
        end = None if limit is None else after + limit
        return [_text(key) for key in self._order[after:end]]

    def repeated(self) -> dict[str, int]:
        """Ids that came more than once, and how often."""
        return {_text(key): times for key, times in self._repeated.items()}


class Flow:
    """Segments taken, by the time they were read: all, by second, and the exact most in any second."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all segments."""
        self.segments = 0
        # The most that were taken within any second, wherever it begins: [t, t + 1).
        self.second_max = 0
        self._seconds: dict[int, int] = {}
        # [time, segments] of the last second, oldest first, and their sum.
        self._last: deque[list[float]] = deque()
        self._in_last = 0

    def add(self, now_s: float, segments: int) -> None:
        """Count segments read at `now_s`, seconds of a steady clock; it never falls from call to call."""
        self.segments += segments
        second = int(now_s)
        self._seconds[second] = self._seconds.get(second, 0) + segments
        last = self._last
        if last and last[-1][0] == now_s:  # read at the same time as the one before
            last[-1][1] += segments
        else:
            while last and last[0][0] <= now_s - 1:
                self._in_last -= int(last.popleft()[1])
            last.append([now_s, segments])
            if len(self._seconds) > 2 * SECONDS:
                self._seconds = self.per_second(now_s)
        self._in_last += segments
        if self._in_last > self.second_max:
            self.second_max = self._in_last

    def per_second(self, now_s: float) -> dict[int, int]:
        """Segments by whole second of the clock, those of the last SECONDS that had any."""
        first = int(now_s) - SECONDS
        return {second: count for second, count in self._seconds.items() if second > first}


def _key(message_id: str) -> Key:
    """16 bytes for a UUID in its canonical spelling, else the text itself."""
    if len(message_id) == 36 and message_id[8] == message_id[13] == message_id[18] == message_id[23] == "-":
        digits = message_id.replace("-", "")
        try:
            key = bytes.fromhex(digits)
        except ValueError:
            return message_id
        if len(key) == 16 and key.hex() == digits:  # with capitals or blanks it is another id
            return key
    return message_id


def _text(key: Key) -> str:
    if isinstance(key, str):
        return key
    digits = key.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
