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
from typing import Any, NamedTuple

import msgspec

_decode = msgspec.json.Decoder().decode
_tolerant = json.JSONDecoder(strict=False)
# What may stand before a document and between two.
_BLANKS = " \t\r\n\0\ufeff"
_BLANK = re.compile(f"[{_BLANKS}]*")
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


class TooManyDocuments(ValueError):
    """There are more documents than may be."""


def parse_json(body: bytes) -> Any:
    """The first document in `body`; what follows it is passed over, and warnings before an object are.

    Raises Malformed.
    """
    try:
        document = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = _text(body)
        document = _first(text, 0).document if text.startswith(_BEGINNINGS) else _after_warnings(text)
    return document if type(document) is not str else _unwrapped(document)


def parse_json_documents(body: bytes, most: int) -> list[Any]:
    """All documents in `body`, one after another with nothing but blanks between; at least one.

    Raises Malformed, also when only the first ones are whole: nothing of the rest may be lost. Raises
    TooManyDocuments when there are more than `most`.
    """
    try:
        return [_unwrapped(_decode(body))]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    text, at = _text(body), 0
    documents: list[Any] = []
    while at < len(text) or not documents:
        if len(documents) == most:
            raise TooManyDocuments(f"there are more than {most} documents")
        document, text, at = _first(text, at)
        documents.append(_unwrapped(document))
    return documents


def _after_warnings(text: str) -> Any:
    """The object that stands alone after one or more warnings."""
    at = 0
    while warning := _WARNING.match(text, at):
        at = warning.end()
    found = _first(text, at)
    if not at or found.end < len(found.text) or type(found.document) is not dict:
        raise Malformed("it begins with something else")
    return found.document


class _Found(NamedTuple):
    """A document, the text in which it stands, and where what comes after it and blanks begins there."""

    document: Any
    text: str
    end: int


def _first(text: str, at: int) -> _Found:
    """The document that begins in `text` at `at`, perhaps in a text without commas that are too many."""
    if not text.startswith(_BEGINNINGS, at):
        raise Malformed("it begins with something else")
    try:
        return _whole(text, at)
    except Malformed:
        rest = text[at:]
        corrected = _COMMAS.sub(lambda found: "" if found[0] == "," else found[0], rest)
        if corrected == rest:
            raise
        return _whole(corrected, 0)


def _whole(text: str, at: int) -> _Found:
    try:
        document, end = _tolerant.raw_decode(text, at)
        if text.find("\\u", at, end) >= 0:
            # Escaped halves of characters can be written nowhere.
            whole = json.dumps(document, ensure_ascii=False).encode(errors="replace")
            document = json.loads(whole)
    except _ERRORS as e:
        raise Malformed(str(e)) from e
    blanks = _BLANK.match(text, end)
    assert blanks is not None
    return _Found(document, text, blanks.end())


def _unwrapped(document: Any) -> Any:
    if isinstance(document, str) and document.lstrip(_BLANKS).startswith(("{", "[")):
        try:
            return _first(document.strip(_BLANKS), 0).document
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
