"""Reads JSON as providers' servers write it, not only as RFC 8259 has it.

What is read although it is no JSON, because nothing can be taken for something else by it:
- a byte order mark, blanks and NULs before the document; UTF-16 and UTF-32;
- octets that are no UTF-8: then the whole is taken for Latin-1, which has a character for each;
- line ends and other control characters inside strings, halves of characters (they become "?");
- a document that is itself a JSON string with a document in it;
- a comma after the last value of an object or a list;
- what follows the first whole document, where the caller allows it;
- warnings that PHP writes before an answer (display_errors, main.c of PHP), where the caller allows it and
  exactly one object comes after them.

A document that is cut short, or begins with something else (a page), stays unread.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

_decode = msgspec.json.Decoder().decode
_tolerant = json.JSONDecoder(strict=False)
# What may stand before a document and between two.
_BLANKS = " \t\r\n\0\ufeff"
_BEGINNINGS = ("{", "[", '"')
_UTF8_MARK = b"\xef\xbb\xbf"
_ERRORS = (ValueError, RecursionError)
# Strings and what a comma may not follow are passed over; what is left are commas before an end.
_COMMAS = re.compile(r'"(?:[^"\\]|\\.)*+"?|[{\[,:]\s*+,|,(?=\s*+[}\]])', re.DOTALL)
# One warning, with html_errors or without; it may go on over several lines.
_WARNING = re.compile(
    r"\s*(?:<br />\s*)?(?:<b>)?(?:PHP )?(?:Warning|Notice|Deprecated|Strict Standards)(?:</b>)?:"
    r".*? on line (?:<b>)?\d+(?:</b>)?(?:<br />)?\s*",
    re.DOTALL,
)


class Malformed(ValueError):
    """The bytes are no JSON document."""


def parse_json(body: bytes) -> Any:
    """The first document in `body`; what follows it is passed over, and warnings before an object are.

    Raises Malformed.
    """
    try:
        document = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = _text(body)
        document = _first(text)[0] if text.startswith(_BEGINNINGS) else _after_warnings(text)
    return document if type(document) is not str else _unwrapped(document)


def parse_json_documents(body: bytes) -> list[Any]:
    """All documents in `body`, one after another with nothing but blanks between; at least one.

    Raises Malformed, also when only the first ones are whole: nothing of the rest may be lost.
    """
    try:
        return [_unwrapped(_decode(body))]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    rest = _text(body)
    documents: list[Any] = []
    while rest or not documents:
        document, rest = _first(rest)
        documents.append(_unwrapped(document))
    return documents


def _after_warnings(text: str) -> Any:
    """The object that stands alone after one or more warnings."""
    at = 0
    while warning := _WARNING.match(text, at):
        at = warning.end()
    document, rest = _first(text[at:])
    if not at or rest or type(document) is not dict:
        raise Malformed("it begins with something else")
    return document


def _first(text: str) -> tuple[Any, str]:
    """The document that `text` begins with, and the rest without the blanks around it."""
    if not text.startswith(_BEGINNINGS):
        raise Malformed("it begins with something else")
    try:
        return _whole(text)
    except Malformed:
        corrected = _COMMAS.sub(lambda found: "" if found[0] == "," else found[0], text)
        if corrected == text:
            raise
        return _whole(corrected)


def _whole(text: str) -> tuple[Any, str]:
    try:
        document, end = _tolerant.raw_decode(text)
        if "\\u" in text:
            # Escaped halves of characters can be written nowhere.
            whole = json.dumps(document, ensure_ascii=False).encode(errors="replace")
            document = json.loads(whole)
    except _ERRORS as e:
        raise Malformed(str(e)) from e
    return document, text[end:].strip(_BLANKS)


def _unwrapped(document: Any) -> Any:
    if isinstance(document, str) and document.lstrip(_BLANKS).startswith(("{", "[")):
        try:
            return _first(document.strip(_BLANKS))[0]
        except Malformed:
            return document
    return document


def _text(body: bytes) -> str:
    try:
        # By the mark or the NULs in its first octets: UTF-8, UTF-16 or UTF-32.
        text = body.decode(json.detect_encoding(body))
    except UnicodeDecodeError:
        text = body.removeprefix(_UTF8_MARK).decode("latin-1")
    return text.strip(_BLANKS)
