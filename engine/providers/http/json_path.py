"""Paths into JSON documents, e.g. "messages.0.message-id", and their values as words.

A path is names and positions with dots in between; "*" stands for every element of a
list or of an object. "" is the document itself. A name that itself has a dot cannot be
written. Nothing here raises for a document of another shape: it has no such value.

Some providers write a list of one where an object is described, or the object alone where a list
is: a list of one is passed through where a name is looked for, position 0 of an object is the object
itself, and so is "*" of an object that holds only plain values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from engine.written_numbers import is_whole

# No provider writes a document that is nested deeper; walking it would cost stack.
_DEPTH_MAX = 32

Path = tuple[str, ...]


def parse_path(path: str) -> Path:
    """The path taken apart at its dots; beyond the depth of any document of a provider it is cut."""
    return tuple(path.split(".")[:_DEPTH_MAX]) if path else ()


def find(document: Any, path: Path) -> Any:
    """The value at a path without "*"; None when there is none."""
    for key in path:
        if isinstance(document, dict):
            value = document.get(key)
            if value is not None or key != "0" or key in document:
                document = value
        elif isinstance(document, list):
            if is_whole(key) and len(key) < 9:
                document = document[int(key)] if int(key) < len(document) else None
            else:
                # Among several it would be a guess which is meant.
                document = find(document[0], (key,)) if len(document) == 1 else None
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
    inner: Iterable[Any] = ()
    if isinstance(many, dict):
        inner = [many] if path[star + 1 :] and _is_plain(many) else many.values()
    elif isinstance(many, list):
        inner = many
    for one in inner:
        yield from find_all(one, path[star + 1 :])


def _is_plain(document: dict[str, Any]) -> bool:
    """Whether an object holds neither objects nor lists."""
    return not any(isinstance(value, dict | list) for value in document.values())


def word(value: Any) -> str:
    """A plain value as a provider would write it in a text, alone or in a list of one; "" for any other."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else ""
