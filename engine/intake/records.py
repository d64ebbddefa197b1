"""The records of what is checked before a message is taken in."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, NamedTuple

import msgspec

# api      the organisation said so
# admin    an operator
# inbound  the recipient, in a message
OptOutSource = Literal["api", "admin", "inbound"]


class OptOut(msgspec.Struct, frozen=True, kw_only=True):
    """A recipient who wants no messages of an organisation."""

    # E.164, with the "+".
    number: str
    since: datetime
    source: OptOutSource


class OptOutChange(NamedTuple):
    """What became of one number of an organisation."""

    organisation_id: int
    # The digits of the number.
    number: int
    opted_out: bool


class OptOutChanges(NamedTuple):
    """What changed after a version."""

    # Up to which these are all changes.
    version: int
    rows: list[OptOutChange]
    # Whether there are more after `version`.
    more: bool
