"""Undoes gzip and deflate in the body of an answer (RFC 9110, 8.4.1), within a bound.

Nobody asks for them: requests say `Accept-Encoding: identity`. Some servers and the boxes before
them compress all the same, and some forget to say so. gzip is known by its first octets, deflate only
by the header.

A body that is not what the header says, or ends in the middle, is left as it came: the status
still counts, and what cannot be read in the body is not there. No I/O here.
"""

from __future__ import annotations

import zlib

# Members of one gzip body that are read.
_MEMBERS_MAX = 16
_GZIP = b"\x1f\x8b"


class TooLarge(ValueError):
    """The body is longer than the bound once it is unpacked."""


def is_packed(body: bytes | bytearray, coding: bytes) -> bool:
    """Whether a body may need `unpacked`; `coding` is the value of Content-Encoding, b"" without one."""
    return body[:2] == _GZIP or (coding != b"" and b"deflate" in coding.lower())


def unpacked(body: bytes, bytes_max: int) -> bytes:
    """The body as it was before it was packed; the same body when it cannot be unpacked.

    Raises TooLarge when it has more than `bytes_max` octets. No more than that are unpacked.
    """
    # gzip by its head; deflate with the head of zlib, as the standard says, or without, as many send it.
    for wbits in (zlib.MAX_WBITS | 16,) if body[:2] == _GZIP else (zlib.MAX_WBITS, -zlib.MAX_WBITS):
        try:
            return _inflated(body, wbits, bytes_max)
        except zlib.error:
            continue
    return body


def _inflated(body: bytes, wbits: int, bytes_max: int) -> bytes:
    """Raises zlib.error when it is not in this form or not whole, TooLarge."""
    whole = b""
    for _ in range(_MEMBERS_MAX):
        inflate = zlib.decompressobj(wbits)
        whole += inflate.decompress(body, bytes_max + 1 - len(whole))
        if len(whole) > bytes_max:
            raise TooLarge
        if not inflate.eof:
            raise zlib.error("the body ends too early")
        body = inflate.unused_data
        if body[:2] != _GZIP:
            break
    return whole
