"""The engine's functions in Redis: libraries in Lua, under names of their version.

A library is a file `functions/*.lua`, or a folder `functions/*/`, whose files are one text in the order of
their names: what is local in one is known in those after it.

A version is a digest of all the files. It stands in the name of every library and of every function
(`settle_1f2e3d4c`), so the functions of several versions of the engine stand beside each other, and
none is ever loaded over another. Each process calls those of its own version.

Killed while loading: some libraries are there; whoever loads next loads the others. Loaded twice at
once: the second one is refused by Redis, and that counts as loaded. A library that nobody has loaded
for KEPT_MS is deleted. Should a process of that version still run, its next call finds no function, and
it loads them again (see `link`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_FOLDER = Path(__file__).parent / "functions"


def _sources() -> list[bytes]:
    """The text of each library, in the order of their names."""
    files = {file.stem: [file] for file in _FOLDER.glob("*.lua")}
    for file in sorted(_FOLDER.glob("*/*.lua")):
        files.setdefault(file.parent.name, []).append(file)
    return [b"".join(file.read_bytes() for file in files[name]) for name in sorted(files)]


_SOURCES = _sources()
# Eight digits of hex: it only has to differ from the few versions that ever meet in one Redis.
VERSION = hashlib.sha256(b"\0".join(_SOURCES)).hexdigest()[:8]
# The names of all versions, as a pattern. The first versions had no digest in their names.
PATTERN = "sms*"
_OWN = ("smsengine", "smsengine_inbox", "smsreceipts", "smspacing", "smsinbound")
# How long a library stays that nobody loads, milliseconds.
KEPT_MS = 30 * 86_400_000


class Library(NamedTuple):
    """The name of a library, and its code as Redis is given it."""

    name: str
    code: bytes


def versioned(function: str) -> str:
    """The name under which Redis knows a function of this version."""
    return f"{function}_{VERSION}"


def libraries() -> list[Library]:
    """The libraries of this version. The first line of each text is `#!lua name=NAME`."""
    return [_library(source) for source in _SOURCES]


def _library(source: bytes) -> Library:
    first, rest = source.split(b"\n", 1)
    name = versioned(first.partition(b"name=")[2].decode())
    # In the first line of the rest, so that the lines of an error are those of the text.
    return Library(name, b"#!lua name=%b\nlocal VERSION = '_%b' %b" % (name.encode(), VERSION.encode(), rest))


def is_own(name: str) -> bool:
    """Whether a library is one of the engine's, of whatever version."""
    return name in _OWN or name.rpartition("_")[0] in _OWN


def outdated(found: Iterable[str], used_ms: dict[str, int], now_ms: int) -> list[str]:
    """Those of the libraries `found` that nobody has loaded for KEPT_MS.

    `used_ms`: {library: when it was loaded last, milliseconds since 1970}.
    """
    return [name for name in found if is_own(name) and now_ms - used_ms.get(name, now_ms) > KEPT_MS]
