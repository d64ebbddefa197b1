"""Rule: octets of a provider as text that may be shown to operators and kept.

What is hidden, and what stands in its place:

    the text of a message       from `text:` (SMPP) or `text=`, `"text":` (HTTP) on: everything
    numbers of telephones       seven digits or more: the first three are kept
    secrets                     the value after a name such as `password`, `token` or `Authorization`,
                                and every word that the caller knows to be secret

Each is found in ASCII and UTF-8, in UTF-16 (an octet 0 between the characters), and in hex. An id that
stands after a name such as `id:` or `"message_id":` and a time after `date:` are kept, because they are
what an operator looks for. What cannot be printed is written as an escape, such as \\x00.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

MASK = "***"
# A name and its value are joined by one of these; also as a URL or JSON writes it.
_JOINED = r"""(?:\\?["'])?\s*(?:[:=]|%3a|%3d)\s*(?:\\?["'])?"""
_TEXT = re.compile(
    # As octets, one by one or with a 0 between them.
    r"\bbody=|t\0?e\0?x\0?t\0?(?:\\?[\"']\0?)?\s*(?:[:=]|%3a|%3d)"
    # As hex of ASCII or of UTF-16: "text:", in any case of its letters.
    r"|(?:00)?[57]4(?:00)?[46]5(?:00)?[57]8(?:00)?[57]4(?:00)?3a",
    re.IGNORECASE,
)
# An id or a time is passed over as a whole; anything else with so many digits is a number.
_NUMBER = re.compile(
    rf"(?P<kept>(?:\b|_|message|msg|sms)id{_JOINED}[\w-]+|\bdate:\d{{10,12}}\b)"
    r"|\d(?:\0?[ ().-]{0,2}\0?\d){6,}",
    re.IGNORECASE,
)
_SECRET = re.compile(
    r"(?P<name>(?:pass(?:word|wd|phrase)?|pwd|secret|token|signature|api[_-]?key|access[_-]?key"
    rf"|authorization|x-[\w-]{{0,20}}?(?:key|auth[\w-]{{0,20}})){_JOINED}(?:(?:basic|bearer|key)\s+)?)"
    r"""[^\s&"',;<>{}]+""",
    re.IGNORECASE,
)


def masked(sample: bytes | str, characters_max: int) -> str:
    """A sample as printable text of at most `characters_max` characters, with all that is above hidden.

    Only the beginning is looked at: the work is bounded by `characters_max`, however long the sample is.
    """
    cut = len(sample) > characters_max
    text = as_text(sample[:characters_max])
    if found := _TEXT.search(text):
        text, cut = text[: found.end()] + MASK, False
    text = _NUMBER.sub(_number, without_secrets(text))
    if cut:
        # What is left of a number that was cut off.
        text = text.rstrip("0123456789\0 ().-")
    return printable(text)[:characters_max]


def without_secrets(text: str, known: Iterable[str] = ()) -> str:
    """`text` without `known` secrets and without values that stand after the name of a secret."""
    for word in known:
        text = text.replace(word, MASK)
    return _SECRET.sub(lambda found: found["name"] + MASK, text)


def spellings(secret: str) -> list[str]:
    """How a secret may be written on the wire, the longest first; [] for ""."""
    return sorted({secret, quote(secret, safe=""), quote(secret), quote_plus(secret)} - {""}, key=len)[::-1]


def as_text(octets: bytes | str) -> str:
    """Octets as UTF-8; those that are none as escapes."""
    return octets if isinstance(octets, str) else octets.decode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """`text` with escapes for what cannot be printed."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _number(found: re.Match[str]) -> str:
    return found["kept"] or found[0].replace("\0", "")[:3] + MASK
