"""The numbers that recipients write to: a number of an organisation, or a short code. Pure."""

from __future__ import annotations

import re

from engine.errors import Refusal

_NUMBER = re.compile(r"\+?[0-9]{2,15}")


def own_number(field: str, text: str, more: str = "") -> str:
    """The number as it is kept, without "+". Raises Refusal 422, which names the field, and says what else is
    allowed with `more`."""
    if not _NUMBER.fullmatch(text):
        must = 'a number or a short code: 2 to 15 digits, with or without "+" in front'
        raise Refusal("invalid_field", 422, f"`{field}` must be {must}{more}.", field)
    return text.removeprefix("+")
