"""API keys as text: `smse_<key id>_<secret>`, the secret 256 random bits as 43 characters
of base64url (RFC 4648, section 5, no padding). Admin keys with a name read `smsa_<key id>_<secret>`; the one
of the configuration is any text.

The id finds the key, and the secret proves it. Of a secret only the SHA-256 of its 43
characters is kept. A slow, salted hash protects secrets that can be guessed. A secret of 256
random bits cannot be guessed, so a fast hash protects it as well, and every request has to
compute it.
"""

from __future__ import annotations

import hashlib
import re
import secrets

# RFC 6750; the scheme is case-insensitive (RFC 9110, section 11.1), the rest is strict.
# RFC 9110, 11.4: one blank or more behind the scheme.
_SCHEME = "[Bb][Ee][Aa][Rr][Ee][Rr] {1,100}"
_BEARER = re.compile(_SCHEME + r"([\x21-\x7e]{1,200})")
# An id of at most 18 digits: every such id fits PostgreSQL's bigint.
_ADMIN_KEY = re.compile(r"smsa_([1-9][0-9]{0,17})_([A-Za-z0-9_-]{43})")
_KEY = re.compile(_SCHEME + r"smse_([1-9][0-9]{0,17})_([A-Za-z0-9_-]{43})")


def new_secret() -> str:
    """256 bits from the system's source of randomness, 43 characters."""
    return secrets.token_urlsafe(32)


def key_text(key_id: int, secret: str) -> str:
    """The key as the organisation sends it."""
    return f"smse_{key_id}_{secret}"


def new_admin_key() -> str:
    """A key for the configuration, good for all admin calls. To check it, keep `digest` of the whole text."""
    return f"smsa_{new_secret()}"


def admin_key_text(key_id: int, secret: str) -> str:
    """An admin key with a name, as an operator sends it."""
    return f"smsa_{key_id}_{secret}"


def admin_key(token: str) -> tuple[int, str] | None:
    """(key id, secret) of such a key; None when it is none."""
    found = _ADMIN_KEY.fullmatch(token)
    return (int(found[1]), found[2]) if found else None


def digest(secret: str) -> bytes:
    """The SHA-256, 32 bytes, of an API key's secret or of a whole admin key."""
    return hashlib.sha256(secret.encode()).digest()


def bearer(authorization: str) -> str | None:
    """The token of an Authorization header; None when it has none."""
    found = _BEARER.fullmatch(authorization)
    return found[1] if found else None


def bearer_key(authorization: str) -> tuple[int, str] | None:
    """(key id, secret) of the API key in an Authorization header; None when it has none."""
    found = _KEY.fullmatch(authorization)
    return (int(found[1]), found[2]) if found else None
