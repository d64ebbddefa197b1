"""Rule: octets of a provider as text that may be shown to operators and kept.

What is hidden, and what stands in its place:

    the text of a message       from `text:` (SMPP) or `text=`, `"text":` (HTTP) on: everything
    numbers of telephones       seven digits or more: the first three are kept
    secrets                     the value after a name such as `password`, `token` or `Authorization`,
                                and every word that the caller knows to be secret
    users of addresses          `user:password@` in a URL
    the message                 the text and the number of the message that an answer is about
    all contents                where no message is at hand: see `engine.providers.form`

Each is found in ASCII and UTF-8, in UTF-16 (an octet 0 between the characters), and in hex. An id that
stands after a name such as `id:` or `"message_id":` and a time after `date:` are kept, because they are
what an operator looks for. What cannot be printed is written as an escape, such as \\x00.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from engine.providers.form import form_of
from engine.providers.known_words import spellings, without_message, without_words

__all__ = [
    "MASK",
    "About",
    "as_text",
    "masked",
    "masked_answer",
    "masked_form",
    "printable",
    "spellings",
    "without_secrets",
]

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

# The user and password of a URL, also as JSON or a URL writes it.
_USER = re.compile(r"(?P<scheme>:(?:\\?/){2}|%3a%2f%2f)[^/?#\s\"'<>]*(?:@|%40)", re.IGNORECASE)
# What is looked at beyond the end, so that a word that is cut off there is known.
_BEYOND = 400


class About(NamedTuple):
    """What is private in a message: its text, and its number in E.164."""

    text: str
    to: str


def masked_answer(octets: bytes | str, characters_max: int, about: About, known: Sequence[str] = ()) -> str:
    """An answer about a message, masked as by `masked`, also without the message and `known` spellings."""
    text = without_words(as_text(octets[: characters_max + _BEYOND]), known, MASK)
    return masked(without_message(text, *about, MASK), characters_max)


def masked_form(octets: bytes | str, characters_max: int, known: Sequence[str] = ()) -> str:
    """What came without a message at hand, as its form: see `engine.providers.form`."""
    octets = octets[: characters_max + _BEYOND]
    if isinstance(octets, bytes):
        try:
            text = octets.decode()
        except UnicodeDecodeError:
            # Every octet a character, so that those of another alphabet count as text.
            text = octets.decode("latin-1")
    else:
        text = octets
    text = without_secrets(without_words(text, known, MASK))[:characters_max]
    found = _TEXT.search(text)
    form = form_of(text[: found.start()] if found else text)
    return printable(form + (found[0] + MASK if found else ""))[:characters_max]


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
    text = _USER.sub(lambda found: found["scheme"] + MASK + "@", without_words(text, known, MASK))
    return _SECRET.sub(lambda found: found["name"] + MASK, text)


def as_text(octets: bytes | str) -> str:
    """Octets as UTF-8; those that are none as escapes."""
    return octets if isinstance(octets, str) else octets.decode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """`text` with escapes for what cannot be printed."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _number(found: re.Match[str]) -> str:
    return found["kept"] or found[0].replace("\0", "")[:3] + MASK
