"""Rule: how many messages a loss of Redis left sent and not charged, and how many are gone.

The books count units. They are behind the recorded events by what was sent and not charged; which messages
that were follows from the events that were recorded in the lost time:

- a message that was back in its queue was sent again: each sending after the first was not charged;
- a message that was accepted in the lost time is gone from Redis. If it was sent, it was charged when the
  books had its usage, and else not;
- a message that was accepted in the lost time and has no end is gone unsent.

Events that were lost before they were archived say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class LostMessages(NamedTuple):
    """What the events say of the messages of one organisation that have an event in the lost time."""

    # Sendings after the first of their message, and their units.
    again: int = 0
    again_units: int = 0
    # Messages that were sent once, in the lost time, and their units.
    once: int = 0
    once_units: int = 0
    # Messages that were accepted in the lost time and have no end.
    gone: int = 0


class Uncharged(NamedTuple):
    """What a loss of Redis did to a shard."""

    # Units that were sent and not charged.
    units: int
    # How many messages that were, and how many are gone unsent; None: not known.
    messages: int | None = None
    gone_messages: int | None = None


def uncharged_of(units: Mapping[int, int], lost: Mapping[int, LostMessages] | None) -> Uncharged:
    """`units`: by organisation, those that were sent and not charged. `lost` None: nobody could say."""
    sum_units = sum(units.values())
    if lost is None:
        return Uncharged(sum_units)
    messages = sum(_messages(of, lost.get(o, LostMessages())) for o, of in units.items())
    return Uncharged(sum_units, messages, sum(of.gone for of in lost.values()))


def _messages(units: int, of: LostMessages) -> int:
    """How many messages `units` are; exact when those that were sent once cost the same, or all count."""
    if units <= of.again_units:
        return -(-units * of.again // of.again_units) if of.again_units else 0
    left = units - of.again_units
    if not of.once_units:
        return of.again
    return of.again + min(of.once, -(-left * of.once // of.once_units))
