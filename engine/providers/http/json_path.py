"""Paths into JSON documents, e.g. "messages.0.message-id", and their values as words.

A path is names and positions with dots in between; "*" stands for every element of a
list or of an object. "" is the document itself. A name that itself has a dot cannot be
written. Nothing here raises for a document of another shape: it has no such value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

# No provider writes a document that is nested deeper; walking it would cost stack.
_DEPTH_MAX = 32

Path = tuple[str, ...]


class Malformed(ValueError):
    """The bytes are no JSON document."""


_decode = msgspec.json.Decoder().decode


def parse_json(body: bytes) -> Any:
    """The document in `body`. Raises Malformed."""
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise Malformed(str(e)) from e


def parse_path(path: str) -> Path:
    """The path taken apart at its dots; beyond the depth of any document of a provider it is cut."""
    return tuple(path.split(".")[:_DEPTH_MAX]) if path else ()


def find(document: Any, path: Path) -> Any:
    """The value at a path without "*"; None when there is none."""
    for key in path:
        if isinstance(document, dict):
            document = document.get(key)
        elif isinstance(document, list) and key.isdecimal() and len(key) < 9:
            document = document[int(key)] if int(key) < len(document) else None
        else:
            return None
    return document


def find_all(document: Any, path: Path) -> Iterator[Any]:
    """Every value at a path, in the document's order."""
    if "*" not in path:
        value = find(document, path)
        if value is not None:
            yield value
        return
    star = path.index("*")
    many = find(document, path[:star])
    inner: Iterable[Any] = many.values() if isinstance(many, dict) else many if isinstance(many, list) else ()
    for one in inner:
        yield from find_all(one, path[star + 1 :])


def word(value: Any) -> str:
    """A plain value as a provider would write it in a text; "" for what is none."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else ""
