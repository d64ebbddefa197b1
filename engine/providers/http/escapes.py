"""A message's text as bytes in each place of a request where it may stand.

place   escaped as
url     percent-encoding of UTF-8 (RFC 3986, 2.1): paths, query strings, form bodies; a
        blank is %20, which all of them read alike
json    the inside of a JSON string (RFC 8259, 7)
header  not at all: what is not printable ASCII is refused, so that no message can add
        a header of its own (RFC 9110, 5.5)
text    UTF-8
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

import msgspec

Place = Literal["url", "json", "header", "text"]
Escape = Callable[[str], bytes]

_encode_json = msgspec.json.Encoder().encode
# RFC 3986, 2.3: characters that are never escaped.
_UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
_RESERVED = re.compile(rb"[^A-Za-z0-9_.~-]+")
_RAW = tuple(bytes([byte]) for byte in range(256))
_ESCAPED = tuple(b"%%%02X" % byte for byte in range(256))
# Up to so many different octets it is quicker to replace one after another.
_FEW = 8
_PERCENT = ord("%")


class Unencodable(ValueError):
    """The message has characters that cannot stand at this place of a request."""


def escape_url(text: str) -> bytes:
    """Percent-encoded UTF-8 (RFC 3986, 2.1). Raises UnicodeEncodeError for half a surrogate pair."""
    data = text.encode()
    reserved = set(data.translate(None, _UNRESERVED))
    if len(reserved) > _FEW:
        # Escape whole runs at once: in most scripts nearly the whole text is one run.
        return _RESERVED.sub(_percent, data)
    # The percent sign first, because the escapes contain it.
    if _PERCENT in reserved:
        data = data.replace(b"%", b"%25")
        reserved.discard(_PERCENT)
    for byte in reserved:
        data = data.replace(_RAW[byte], _ESCAPED[byte])
    return data


def _percent(run: re.Match[bytes]) -> bytes:
    return b"%" + run[0].hex("%").upper().encode()


def escape_json(text: str) -> bytes:
    """The inside of a JSON string, without the quotes (RFC 8259, 7)."""
    return _encode_json(text)[1:-1]


def escape_header(text: str) -> bytes:
    """The text as it is. Raises Unencodable for anything but printable ASCII."""
    if not (text.isascii() and text.isprintable()):
        raise Unencodable("not printable ASCII")
    return text.encode()


def escape_text(text: str) -> bytes:
    """UTF-8. Raises UnicodeEncodeError for half a surrogate pair."""
    return text.encode()


ESCAPES: dict[Place, Escape] = {
    "url": escape_url,
    "json": escape_json,
    "header": escape_header,
    "text": escape_text,
}
