"""Rule: how a delivery is signed, after Standard Webhooks.

The text that is signed is `<webhook-id>.<webhook-timestamp>.<body>`; a signature is `v1,` and the base64 of
its HMAC-SHA256 with a secret. With two secrets, while one replaces the other, the header has a signature of
each, with a blank between them. A secret is shown as `whsec_` and its base64.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence

_PREFIX = "whsec_"
# The specification asks for 24 to 64 octets.
SECRET_OCTETS = 32


def shown(secret: bytes) -> str:
    """A secret as its organisation is shown it."""
    return _PREFIX + base64.b64encode(secret).decode()


def headers(event_id: str, now_s: int, body: bytes, keys: Sequence[bytes]) -> bytes:
    """The three header lines of a delivery, each ended by CRLF. `keys`: raw secrets, one or two."""
    signed = b"%b.%d.%b" % (event_id.encode(), now_s, body)
    signatures = b" ".join(b"v1," + base64.b64encode(hmac.digest(key, signed, "sha256")) for key in keys)
    return b"webhook-id: %b\r\nwebhook-timestamp: %d\r\nwebhook-signature: %b\r\n" % (
        event_id.encode(), now_s, signatures,
    )  # fmt: skip
