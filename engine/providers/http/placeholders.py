"""Placeholders in the texts of a request's description, e.g. `{receipt_url}?id={id}`.

A text is taken apart once. What the settings give (`FIXED`) is put in at that time; what the
message gives (`TEXTS`, `NUMBERS`) is put in when it is sent. `{name?}` leaves out the field in
which it stands when there is nothing to put there. `{nothing?}` always leaves it out, which
removes a field of a preset. `{{` and `}}` are plain braces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

import msgspec

from engine.errors import ConfigError
from engine.prefix_table import PrefixTable
from engine.providers.http.escapes import ESCAPES, Place, Unencodable
from engine.records import Message

_ID_BITS = 62
_REMEMBERED_MAX = 1024


# (message, time in microseconds since 1970) → one of its values, escaped.
Fill = Callable[[Message, int], bytes]


class Slot(NamedTuple):
    """A place in a request that each message fills."""

    name: str
    fill: Fill


class Filled(str):
    """A value from the settings. It is escaped like a message's, and never read as description."""

    __slots__ = ()


class NumberRules(msgspec.Struct, frozen=True):
    """How a description wants numbers written; see `RequestTable`."""

    # By the beginning of a number, what is written in its place.
    rewrite_to: dict[str, str] = {}
    validity_min_s: int = 1
    validity_max_s: int = 7 * 86400


# Given by the settings.
FIXED = ("username", "password", "receipt_url", "provider", "nothing")
# Given by each message; the second are written as JSON numbers when they stand alone.
TEXTS = ("to", "to_digits", "from", "text", "id", "encoding", "reference")
NUMBERS = ("segments", "id_number", "validity_s", "validity_ms", "validity_minutes")

_TOKEN = re.compile(r"\{\{|\}\}|\{([a-z_]+)(\??)\}|[{}]")
_PRINTED = ", ".join(f"{{{name}}}" for name in (*TEXTS, *NUMBERS, *FIXED))


class Text(NamedTuple):
    """A text taken apart: literals and slots in order."""

    pieces: tuple[str | Slot, ...]
    # The text is one number and nothing else: JSON writes it without quotes.
    is_number: bool


class Placeholders:
    """Takes texts apart for one provider and one kind of message.

    fixed   values of `FIXED`, "" when not set
    sender  what stands for {from} when the message names none
    empty   names of values that these messages do not have, of "from" and "reference"
    """

    def __init__(
        self, fixed: Mapping[str, str], sender: str, empty: frozenset[str], rules: NumberRules
    ) -> None:
        self._fixed = {**fixed, "nothing": ""}
        self._empty = empty if not sender else empty - {"from"}
        self._sender, self._rules = sender, rules

    def parse(self, text: str, place: Place, where: str) -> Text | None:
        """The text taken apart; None when the field is to be left out.

        Raises ConfigError naming `where` for what is no placeholder, or for one that the
        settings have nothing to give to.
        """
        pieces: list[str | Slot] = []
        position = 0
        for token in _TOKEN.finditer(text):
            pieces.append(text[position : token.start()])
            position = token.end()
            name, optional = token[1], bool(token[2])
            if name is None:
                if len(token[0]) == 1:
                    raise ConfigError(
                        f"{where} has a brace that belongs to no placeholder; a plain one is written "
                        f"{token[0] * 2}, placeholders are {_PRINTED}."
                    )
                pieces.append(token[0][0])
            elif name in self._fixed:
                if not self._fixed[name]:
                    if optional:
                        return None
                    raise ConfigError(_not_given(where, name))
                pieces.append(Filled(self._fixed[name]))
            elif name in NUMBERS:
                pieces.append(Slot(name, _number(name, self._rules)))
            elif name in TEXTS:
                if optional and name in self._empty:
                    return None
                pieces.append(Slot(name, _text(name, place, self._sender, self._rules)))
            else:
                raise ConfigError(f"{where}: {{{name}}} is no placeholder; there are {_PRINTED}.")
        pieces.append(text[position:])
        kept = tuple(piece for piece in pieces if piece)
        alone = kept[0] if len(kept) == 1 else None
        return Text(kept, isinstance(alone, Slot) and alone.name in NUMBERS)


def _not_given(where: str, name: str) -> str:
    needs = "public_url and receipt_token" if name == "receipt_url" else name
    return f"{where} has {{{name}}}, so {needs} must be given; {{{name}?}} would leave the field out."


def _number(name: str, rules: NumberRules) -> Fill:
    """What writes one of `NUMBERS`."""
    low_s, high_s = rules.validity_min_s, rules.validity_max_s

    def validity_s(m: Message, now_us: int) -> int:
        return min(max((m.expires_at_us - now_us) // 1_000_000, low_s), high_s)

    return {
        "segments": lambda m, now_us: b"%d" % m.segments,
        "id_number": lambda m, now_us: b"%d" % id_number(m.id),
        "validity_s": lambda m, now_us: b"%d" % validity_s(m, now_us),
        "validity_ms": lambda m, now_us: b"%d" % (validity_s(m, now_us) * 1000),
        # Rounded up: a message of 30 seconds is given one minute, not none.
        "validity_minutes": lambda m, now_us: b"%d" % -(-validity_s(m, now_us) // 60),
    }[name]


def _text(name: str, place: Place, sender: str, rules: NumberRules) -> Fill:
    """What writes one of `TEXTS` where it is escaped for `place`."""
    escape = ESCAPES[place]
    # Only few different values occur, so each is escaped once.
    remembered = lru_cache(_REMEMBERED_MAX)(escape)
    rewrite_to = PrefixTable({prefix: (len(prefix), instead) for prefix, instead in rules.rewrite_to.items()})

    def rewritten(m: Message, now_us: int) -> bytes:
        length, instead = rewrite_to.longest(m.to, (0, ""))
        return escape(instead + m.to[length:])

    return {
        "to": rewritten if rules.rewrite_to else lambda m, now_us: escape(m.to),
        "to_digits": lambda m, now_us: escape(m.to.lstrip("+")),
        "from": lambda m, now_us: remembered(m.sender or sender),
        "text": lambda m, now_us: escape(m.text),
        "id": lambda m, now_us: escape(m.id),
        "encoding": lambda m, now_us: remembered(m.encoding),
        "reference": lambda m, now_us: escape(m.reference),
    }[name]


def id_number(message_id: str) -> int:
    """An id as a positive number of 62 bits, for providers that want one: the random half of the UUID.

    Raises Unencodable (a ValueError) when it is no UUID.
    """
    try:
        return int(message_id.replace("-", ""), 16) & ((1 << _ID_BITS) - 1)
    except ValueError as e:
        raise Unencodable("no UUID") from e
