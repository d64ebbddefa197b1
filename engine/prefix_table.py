"""Rule: what holds for a number, by the longest prefix of it that a table names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class PrefixTable(Generic[T]):
    """A value for each prefix, such as "+98"; the prefix "" matches every number.

    Never changes. Building it costs a look at each prefix; a look-up costs one access of a
    dict for each length that occurs among the prefixes, of which E.164 allows 17.
    """

    __slots__ = ("_lengths", "_values")

    def __init__(self, values: Mapping[str, T]) -> None:
        """`values` by prefix; a copy is kept."""
        self._values = dict(values)
        # Only lengths that occur are looked up, the longest first.
        self._lengths = tuple(sorted({len(prefix) for prefix in values}, reverse=True))

    def longest(self, number: str, default: T) -> T:
        """The value of the longest prefix of `number`; `default` when none matches."""
        values = self._values
        for length in self._lengths:
            prefix = number[:length]
            if prefix in values:
                return values[prefix]
        return default

    def shorter(self, prefix: str, default: T) -> T:
        """The value of the longest prefix that is shorter than `prefix` and begins it; else `default`.

        What `longest` would find for any number that it finds `prefix` for, were `prefix` not there.
        """
        return self.longest(prefix[:-1], default) if prefix else default
