"""The records of what is checked before a message is taken in."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal, NamedTuple, get_args

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


# name   characters, such as ACME
# short  up to 8 digits: a short code
# long   more digits, or a number with "+"
SenderKind = Literal["name", "short", "long"]
SENDER_KINDS: tuple[SenderKind, ...] = get_args(SenderKind)


class SenderRules(msgspec.Struct, frozen=True, kw_only=True):
    """What an organisation may use as a sender, and where it may send."""

    # None: any.
    senders: tuple[str, ...] | None = None
    # Of a message that names none; "": the provider's.
    default: str = ""
    # Prefixes of numbers, such as "+49"; None: any.
    destinations: tuple[str, ...] | None = None


class SenderRulesChanges(NamedTuple):
    """What was set since a version."""

    version: int
    # By organisation.
    rules: dict[int, SenderRules]


class DestinationSheet(msgspec.Struct, frozen=True, kw_only=True):
    """Which kinds of senders each destination takes."""

    # Goes up with each change of these, and of what organisations may use.
    version: int
    # By prefix; the longest that matches counts. Without kinds: nothing is sent there.
    rules: Mapping[str, tuple[SenderKind, ...]]
