"""Rule: the words that a provider has for each state of a message, as the operator writes them.

A table `states` has the same form for every kind of provider:

    states = { delivered = ["DELIVRD", 2], undelivered = ["EXP*"], pending = ["ACCEPTD"] }
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

State = Literal["delivered", "undelivered", "pending"]
# Asked in this order.
STATES: tuple[State, ...] = ("delivered", "undelivered", "pending")


class StatesTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The provider's words and numbers for each state; a star at the end of a word stands for any rest."""

    delivered: list[str | Annotated[int, Meta(ge=-(2**31), le=2**31)]] = []
    undelivered: list[str | Annotated[int, Meta(ge=-(2**31), le=2**31)]] = []
    pending: list[str | Annotated[int, Meta(ge=-(2**31), le=2**31)]] = []


class Words:
    """The words that a rule names, e.g. ["0", 7, "5*"]; a star at the end stands for any rest.

    `text in words` tells whether one of them matches the text.
    """

    __slots__ = ("_exact", "_starts")

    def __init__(self, words: Iterable[str | int]) -> None:
        texts = [str(one) for one in words]
        self._exact = frozenset(text for text in texts if not text.endswith("*"))
        self._starts = tuple(text[:-1] for text in texts if text.endswith("*"))

    def __contains__(self, text: str) -> bool:
        return text in self._exact or (bool(self._starts) and text.startswith(self._starts))


class States:
    """Reads the words of one table. Where two states name a word, the first of STATES counts."""

    __slots__ = ("_words",)

    def __init__(self, table: StatesTable, *, upper: bool = False) -> None:
        """`upper`: the words are compared in upper case, as they are then asked for."""
        self._words: list[tuple[State, Words]] = []
        for state in STATES:
            words = [str(word) for word in getattr(table, state)]
            if words:
                self._words.append((state, Words(word.upper() for word in words) if upper else Words(words)))

    def of(self, word: str) -> State | None:
        """The state that the table has for this word; None when it does not name it."""
        return next((state for state, words in self._words if word in words), None)
