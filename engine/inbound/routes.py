"""Rule: whose an inbound message is, by the number that it was sent to and by its first word."""

from __future__ import annotations

from collections.abc import Iterable

from engine.inbound.records import InboundRoute
from engine.inbound.words import keyword


class RouteTable:
    """Finds the organisation of messages. It never changes."""

    def __init__(self, routes: Iterable[InboundRoute] = ()) -> None:
        # By number, the organisation of each keyword.
        self._numbers: dict[str, dict[str, int]] = {}
        for route in routes:
            self._numbers.setdefault(route.number, {})[route.keyword] = route.organisation_id

    def find(self, number: str, text: str) -> tuple[int, str]:
        """(organisation, keyword by which it was found) of a text to `number`; (0, "") when there is none."""
        keywords = self._numbers.get(number)
        if keywords is None:
            return 0, ""
        word = keyword(text)
        if word and word in keywords:
            return keywords[word], word
        return keywords.get("", 0), ""

    def has(self, number: str) -> bool:
        """Whether any route has this number, with or without "+" in front: it is one of our own."""
        return number.removeprefix("+") in self._numbers

    def meant(self, number: str, about: str) -> list[int]:
        """The organisations that a STOP to `number` is meant for; `about`: the keyword behind it, or "".

        Without a keyword it is the organisation of the number. When the number is shared and is nobody's, the
        sender may mean any of them, and all are meant. None for a word that is no keyword of the number.
        """
        keywords = self._numbers.get(number, {})
        if about in keywords:
            return [keywords[about]]
        return [] if about else sorted(set(keywords.values()))
