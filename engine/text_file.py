"""Text files that people wrote: which encoding they are in, and what to say when it is not UTF-8."""

from __future__ import annotations

from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from pathlib import Path

# In this order, because the mark of UTF-32 begins with that of UTF-16.
_MARKS = (
    (BOM_UTF8, "utf-8"),
    (BOM_UTF32_LE, "utf-32-le"),
    (BOM_UTF32_BE, "utf-32-be"),
    (BOM_UTF16_LE, "utf-16-le"),
    (BOM_UTF16_BE, "utf-16-be"),
)
# So many octets tell, when there is no byte order mark.
HEAD_BYTES = 64


class NotUtf8(ValueError):
    """A text is not UTF-8. Its own text says what was found, without a full stop."""


def encoding_of(head: bytes) -> str:
    """The Unicode encoding of a text by its first octets: "utf-8", "utf-16-le", "utf-32-be" and so on.

    By its byte order mark, or without one by its first character, which is ASCII in every file that
    is read here: only in UTF-16 and UTF-32 it has octets of zero. All else counts as "utf-8".
    """
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    zeros = [octet == 0 for octet in head[:4]]
    match zeros:
        case [False, True, True, True]:
            return "utf-32-le"
        case [True, True, True, False]:
            return "utf-32-be"
        case [False, True, *_]:
            return "utf-16-le"
        case [True, False, *_]:
            return "utf-16-be"
    return "utf-8"


def decoded(content: bytes) -> str:
    """The text of a whole file in UTF-8, without its byte order mark. Raises NotUtf8."""
    encoding = encoding_of(content)
    if encoding != "utf-8":
        raise NotUtf8(f"it is {encoding[:6].upper()}; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = content.count(b"\n", 0, e.start) + 1
        raise NotUtf8(f"line {line} is not UTF-8; save it as UTF-8") from e


def read(path: Path) -> str:
    """The text of a file that must be UTF-8, with or without a byte order mark. Raises OSError, NotUtf8."""
    return decoded(path.read_bytes())
