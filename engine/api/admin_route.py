"""What is declared of an admin call."""

from __future__ import annotations

from typing import NamedTuple

from engine.admin_keys import Scope
from engine.api.guard import Action


class AdminRoute(NamedTuple):
    """One admin call. One that is no GET changes something, unless it says otherwise: it is recorded."""

    method: str
    path: str
    action: Action
    # What the key of a caller must be good for.
    scope: Scope
    # It changes something outside of PostgreSQL, or in several transactions.
    outside: bool = False
    # For one that keeps a deadline of its own: what it is given, seconds. It is of use to its caller alone,
    # and ends when that one hangs up.
    timeout_s: float | None = None
    # Its answer shows a secret, so it is given once.
    secret: bool = False
    # It changes nothing, so that it is not recorded, although it is no GET.
    is_look: bool = False
