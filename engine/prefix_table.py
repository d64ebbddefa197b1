"""Rule: the value for a number is that of its longest prefix in a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class PrefixTable(Generic[T]):
    """A value for each prefix, such as "+98"; the prefix "" matches every number.

    It never changes. A look-up accesses a dict once for each length that occurs among the
    prefixes; E.164 allows 17 lengths.
    """

    __slots__ = ("lengths", "values")

    def __init__(self, values: Mapping[str, T]) -> None:
        """`values`: {prefix: value}; a copy is kept."""
        self.values = dict(values)
        # Only lengths that occur are looked up, the longest first.
        self.lengths = tuple(sorted({len(prefix) for prefix in values}, reverse=True))

    @property
    def length_max(self) -> int:
        """The length of the longest prefix; what comes behind it in a number changes nothing."""
        return self.lengths[0] if self.lengths else 0

    def longest(self, number: str, default: T) -> T:
        """The value of the longest prefix of `number`; `default` when none matches."""
        values = self.values
        for length in self.lengths:
            prefix = number[:length]
            if prefix in values:
                return values[prefix]
        return default

    def shorter(self, prefix: str, default: T) -> T:
        """The value of the longest other prefix that `prefix` begins with; `default` when there is none.

        It is what `longest` would give for the numbers of `prefix` if `prefix` were not in the table.
        """
        return self.longest(prefix[:-1], default) if prefix else default
