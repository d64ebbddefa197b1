"""Rule: what is known to be secret or private is hidden in a text, in whatever spelling it stands there.

Known are the secrets of the providers, and the text and the number of the message that an answer is about.
An answer may echo a text in part only, or cut it off: so any SHARED_CHARACTERS of it in a row are hidden, and
each word of it that has a digit, because that may be a one-time code.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

# So many characters in a row that are those of a text are taken for a part of it.
SHARED_CHARACTERS = 8
# A shorter word is hidden only where it stands alone: it may be a part of any other word.
_WORD_CHARACTERS = 4
_WITH_DIGIT = re.compile(r"[^\s\"'<>&=,;:]*\d[^\s\"'<>&=,;:]*")
_DIGITS = re.compile(r"\d{4,}")


def spellings(word: str) -> list[str]:
    """How a word may be written on the wire, the longest first; [] for ""."""
    octets = word.encode(errors="replace")
    as_json, as_utf8_json = json.dumps(word)[1:-1], json.dumps(word, ensure_ascii=False)[1:-1]
    hexes = [octets.hex(), word.encode("utf-16-be", "replace").hex()]
    found = {
        word,
        quote(octets, safe=""),
        quote(octets),
        quote_plus(octets),
        as_json,
        as_utf8_json,
        as_json.replace("/", "\\/"),
        as_utf8_json.replace("/", "\\/"),
        html.escape(word),
        html.escape(word, quote=False),
        html.escape(word).replace("&#x27;", "&#39;"),
        html.escape(word).replace("&#x27;", "&apos;"),
        html.escape(as_json),
        html.escape(as_utf8_json),
        "\0".join(word),
        base64.b64encode(octets).decode().rstrip("="),
        *hexes,
    }
    found |= {re.sub("%[0-9A-F]{2}", lambda one: one[0].lower(), one) for one in found if "%" in one}
    found |= {re.sub(r"\\u[0-9a-f]{4}", lambda o: "\\u" + o[0][2:].upper(), one) for one in found}
    return sorted((found | {one.upper() for one in hexes}) - {""}, key=len)[::-1]


def without_words(text: str, known: Iterable[str], mask: str) -> str:
    """`text` without `known`, which are spellings of words; a short one only where it stands alone."""
    words = sorted({word for word in known if word and word in text}, key=len)[::-1]
    if not words:
        return text
    patterns = (
        re.escape(word) if len(word) >= _WORD_CHARACTERS else rf"(?<!\w){re.escape(word)}(?!\w)"
        for word in words
    )
    return re.sub("|".join(patterns), lambda _: mask, text)


def without_message(sample: str, text: str, to: str, mask: str) -> str:
    """`sample` without what is of this message's text, whole or in part, and without its number."""
    whole = spellings(text.strip())
    hidden = bytearray(len(sample))
    for found in whole:
        _mark_shared(sample, found, hidden)
    parts: list[str] = []
    at = 0
    for run in re.finditer(rb"\x01+", hidden):
        parts += sample[at : run.start()], mask
        at = run.end()
    sample = "".join(parts) + sample[at:]
    codes = {word for word in (*_WITH_DIGIT.findall(text), *_DIGITS.findall(text)) if len(word) > 2}
    words = [spelling for word in (to, to.lstrip("+"), *codes) for spelling in spellings(word)]
    return without_words(sample, [*whole, *words], mask)


def _mark_shared(sample: str, text: str, hidden: bytearray) -> None:
    """Mark in `hidden` where `sample` has SHARED_CHARACTERS in a row that `text` has too."""
    shared = {text[at : at + SHARED_CHARACTERS] for at in range(len(text) - SHARED_CHARACTERS + 1)}
    if not shared:
        return
    for at in range(len(sample) - SHARED_CHARACTERS + 1):
        if sample[at : at + SHARED_CHARACTERS] in shared:
            hidden[at : at + SHARED_CHARACTERS] = b"\1" * SHARED_CHARACTERS
