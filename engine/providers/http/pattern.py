"""One part of a request (path, headers or body) as bytes with slots that each message fills."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from engine.errors import ConfigError
from engine.providers.http.escapes import Place, escape_json, escape_url
from engine.providers.http.placeholders import Fill, Placeholders, Slot
from engine.providers.http.tables import shown

# A value: literals and slots in order.
Pieces = tuple[str | Slot, ...]


class PatternWriter:
    """Collects literals and slots. Every error is a ConfigError naming the setting."""

    def __init__(self, placeholders: Placeholders) -> None:
        self._placeholders = placeholders
        self._template: list[bytes] = []
        self._slots: list[Slot] = []

    def literal(self, data: bytes) -> None:
        """Bytes that stand in every request as they are."""
        self._template.append(data.replace(b"%", b"%%"))

    def pieces(self, pieces: Sequence[str | Slot], escape: Callable[[str], bytes]) -> None:
        """A value; its literals are escaped here, its slots escape what they are filled with."""
        for piece in pieces:
            if isinstance(piece, Slot):
                self._template.append(b"%b")
                self._slots.append(piece)
            else:
                self.literal(escape(str(piece)))

    def pairs(self, table: Mapping[str, Any], where: str) -> None:
        """A query or a form: `name=value&...`, a name once for each value of a list."""
        separator = b""
        for name, value in table.items():
            for one in value if isinstance(value, list) else [value]:
                pieces = self._scalar(one, "url", f"{where}.{name}")
                if pieces is not None:
                    self.literal(separator + escape_url(name) + b"=")
                    self.pieces(pieces, escape_url)
                    separator = b"&"

    def json(self, value: Any, where: str, before: bytes = b"") -> bool:
        """A JSON value with `before` in front; False when it is left out, and nothing written."""
        if isinstance(value, str):
            text = self._placeholders.parse(value, "json", where)
            if text is None:
                return False
            quote = b"" if text.is_number else b'"'
            self.literal(before + quote)
            self.pieces(text.pieces, escape_json)
            self.literal(quote)
        elif isinstance(value, bool | int | float):
            self.literal(before + msgspec.json.encode(value))
        elif isinstance(value, Mapping):
            self.literal(before + b"{")
            self._members([(msgspec.json.encode(k) + b":", k, v) for k, v in value.items()], where)
            self.literal(b"}")
        elif isinstance(value, list):
            self.literal(before + b"[")
            self._members([(b"", str(n), v) for n, v in enumerate(value)], where)
            self.literal(b"]")
        else:
            raise ConfigError(f"{where} must be a text, a number, a list or a table, not {shown(value)}.")
        return True

    def append(self, before: bytes, other: PatternWriter) -> None:
        """All of another one with `before` in front, unless it is empty."""
        if other._template:
            self.literal(before)
            self._template += other._template
            self._slots += other._slots

    def pattern(self) -> Fill:
        """The function that builds this part for a message."""
        template = b"".join(self._template)
        fills = tuple(slot.fill for slot in self._slots)
        if not fills:
            static = template % ()
            return lambda message, now_us: static
        return lambda message, now_us: template % tuple([fill(message, now_us) for fill in fills])

    def _members(self, members: list[tuple[bytes, str, Any]], where: str) -> None:
        separator = b""
        for before, key, value in members:
            if self.json(value, f"{where}.{key}", separator + before):
                separator = b","

    def _scalar(self, value: Any, place: Place, where: str) -> Pieces | None:
        if isinstance(value, str):
            text = self._placeholders.parse(value, place, where)
            return None if text is None else text.pieces
        if isinstance(value, bool):
            return ("true" if value else "false",)
        if isinstance(value, int | float):
            return (str(value),)
        raise ConfigError(f"{where} must be a text, a number or a list of these, not {shown(value)}.")
