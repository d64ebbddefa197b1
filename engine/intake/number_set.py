"""Rule: a set of phone numbers that takes about 9 octets for each.

The numbers lie in order in blocks of 64-bit integers. A look-up is two binary searches, and a change moves a
part of one block. Nothing takes time in proportion to the whole set, so a change of a set of millions holds
nobody up.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterator

# A block that has become longer than this is cut in two.
_BLOCK_MAX = 2048


class NumberSet:
    """Whole numbers from 0 to 2⁶⁴ - 1, each once."""

    __slots__ = ("_blocks", "_count", "_lasts")

    def __init__(self) -> None:
        # None of them is empty; the last number of each is in `_lasts`, at the same place.
        self._blocks: list[array[int]] = []
        self._lasts: list[int] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        """All numbers, in order."""
        for block in self._blocks:
            yield from block

    def __contains__(self, number: int) -> bool:
        at = bisect_left(self._lasts, number)
        if at == len(self._lasts):
            return False
        block = self._blocks[at]
        return block[bisect_left(block, number)] == number

    def add(self, number: int) -> None:
        """Put a number in; one that is there already changes nothing."""
        if number in self:
            return
        self._count += 1
        if not self._blocks:
            self._blocks.append(array("Q", (number,)))
            self._lasts.append(number)
            return
        at = min(bisect_left(self._lasts, number), len(self._lasts) - 1)
        block = self._blocks[at]
        insort(block, number)
        self._lasts[at] = block[-1]
        if len(block) > _BLOCK_MAX:
            half = len(block) // 2
            self._blocks[at : at + 1] = [block[:half], block[half:]]
            self._lasts[at : at + 1] = [block[half - 1], block[-1]]

    def discard(self, number: int) -> None:
        """Take a number out; one that is not there changes nothing."""
        if number not in self:
            return
        self._count -= 1
        at = bisect_left(self._lasts, number)
        block = self._blocks[at]
        del block[bisect_left(block, number)]
        if block:
            self._lasts[at] = block[-1]
        else:
            del self._blocks[at], self._lasts[at]

    def append(self, numbers: array[int]) -> None:
        """Put in numbers (type code "Q") that are in order and all greater than those that are there."""
        for start in range(0, len(numbers), _BLOCK_MAX):
            block = numbers[start : start + _BLOCK_MAX]
            self._blocks.append(block)
            self._lasts.append(block[-1])
        self._count += len(numbers)
