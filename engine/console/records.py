"""Records of the console: a session, and what its holder is told about it."""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime
from typing import Literal

import msgspec

from engine.api.key_cache import PresentedBefore

# Whose key a session stands for.
Kind = Literal["admin", "organisation"]


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a session: which key it stands for. Neither the key nor the session's id is kept."""

    kind: Kind
    # That of the key; `auth.CONFIGURED_ID`: the admin key of the configuration.
    key_id: int
    # The digest by which the key was found good, 32 bytes.
    key_sha256: bytes
    # UTC, microseconds since 1970.
    opened_at_us: int

    def presented(self) -> PresentedBefore:
        """The key, to be found good again."""
        return PresentedBefore(self.key_id, self.key_sha256)


class SessionFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the holder of a session is told."""

    kind: Kind
    # That of the admin key, or of the organisation.
    name: str
    scopes: tuple[str, ...]
    # What the header X-CSRF-Token must be in calls that change something.
    csrf: str
    # When the session ends at the latest.
    ends_at: datetime
    organisation_id: int | None = None


def digest_of(session_id: str) -> bytes:
    """Under what a session is kept: the SHA-256 of its id, 32 bytes."""
    return hashlib.sha256(session_id.encode()).digest()


def csrf_token_of(session_id: str) -> str:
    """The token of a session: nobody who lacks its id can make it, and it says nothing of the id."""
    return hmac.new(session_id.encode(), b"smsengine console csrf", "sha256").hexdigest()
