"""What operators change: who changed what, from what to what, when, from which address.

A call that changes something has a `ChangeUnderWay` in its context. Whoever carries it out notes in it, or
writes with the change itself, what was before and what is after (`engine.stores.postgres.changes`). So every
store knows the caller without an argument for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Literal, NamedTuple

import msgspec

# done     the change is in force; without `before` and `after` nothing had to be changed
# begun    it was about to be made outside of PostgreSQL; another record with its id says how that ended
# refused  begun, and refused: nothing was changed
# unknown  begun, and nobody knows whether it was made
Outcome = Literal["done", "begun", "refused", "unknown"]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One record of a change."""

    id: int
    at: datetime
    # The key of the caller; its id is None for the key of the configuration.
    key_id: int | None
    key: str
    # The IP address of the caller, or of a proxy before the engine; `unix` and the user for a Unix socket.
    address: str
    request_id: str
    # The kind of call, such as `POST /v1/admin/organisations/{organisation_id}/pause`, and its path.
    action: str
    path: str
    organisation_id: int | None
    outcome: Outcome
    # The record with the outcome `begun` that this one ends.
    begun_id: int | None
    # Only what differs; None: nothing to tell.
    before: msgspec.Raw
    after: msgspec.Raw


class ChangeFilter(NamedTuple):
    """Which changes are wanted; None: any."""

    # The name of a key.
    key: str | None = None
    organisation_id: int | None = None
    # How the path begins.
    path: str | None = None
    # From this time on, and before that one.
    since: datetime | None = None
    until: datetime | None = None


class ChangeUnderWay:
    """A call that changes something, from its beginning to its end."""

    def __init__(
        self, *, key_id: int | None, key: str, address: str, request_id: str, action: str, path: str,
        organisation_id: int | None,
    ) -> None:  # fmt: skip
        self.key_id, self.key, self.address, self.request_id = key_id, key, address, request_id
        self.action, self.path, self.organisation_id = action, path, organisation_id
        self.before: object = None
        self.after: object = None
        # It was written together with the change.
        self.is_written = False


UNDER_WAY: ContextVar[ChangeUnderWay | None] = ContextVar("change under way", default=None)


def describe(before: object, after: object) -> None:
    """Say what the call under way changes, for one that changes something outside of PostgreSQL."""
    change = UNDER_WAY.get()
    if change is not None:
        change.before, change.after = before, after


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(before, after) with the fields alone in which the two differ; None where one of them has no such."""
    fields = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return {name: before.get(name) for name in fields}, {name: after.get(name) for name in fields}
