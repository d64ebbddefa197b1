"""Service: all messages of a campaign are canceled that no provider has been given.

A campaign is made of the references that a caller gives its messages: those that are its name, or begin with
it and one of `- _ / : .` or a blank. So it may have any number of requests. Nothing is kept of it anywhere.

What waits is gone through in steps that take some thousandths of a second of Redis each, with the work of
others in between; what the archive knows is not asked for. One call makes some steps, and says where the next
one goes on.

    killed, or an answer is lost    some are canceled, and the others not; from the same place, or from the
                                    beginning, the rest is, and nothing is released twice
    Redis does not answer           Unavailable; the same
    more is accepted meanwhile      it may be canceled or not
"""

from __future__ import annotations

import asyncio
import re

import msgspec

from engine.activity.ports import CancelStore
from engine.activity.records import CampaignPlace, Cancellation
from engine.records import QUEUES

# One call ends when it has canceled so many messages, or after so long, seconds: where Redis is slow, its
# caller gets an answer all the same, and goes on from there.
_CANCELED_MAX, _CALL_S = 10_000, 2.0
# The places of `CampaignPlace`, as `next` has them.
_PLACE = re.compile(
    rf"({'|'.join(QUEUES)}):(?:(list)(?::([0-9]{{1,16}})(?::([0-9]{{1,5}}))?)?|(ready)|due"
    r"(?::([0-9]{1,17}(?:\.[0-9]{1,9})?):([0-9]{1,15}):([0-9A-Za-z-]{0,36}))?)"
)


class CanceledCampaign(msgspec.Struct, frozen=True, kw_only=True):
    """What this call did to the messages of a campaign: the body of the answer."""

    campaign: str
    # How many it canceled, and their units, which are released.
    canceled: int
    units: int
    # Of those that it came upon: how many are not canceled, by the code of the reason. What was sent or has
    # ended before is not among them.
    not_canceled: dict[str, int]
    # The `cursor` of the next call; None: everything that waited was looked through.
    next: str | None


def place_of(cursor: str) -> CampaignPlace | None:
    """Where a walk goes on, by the `next` of the call before; "" for the beginning. None for what is no
    `next`."""
    if not cursor:
        return CampaignPlace(queue=QUEUES[0])
    found = _PLACE.fullmatch(cursor)
    if found is None:
        return None
    name, listed, chunk, way, ready, *due = found.groups()
    queue = next(of for of in QUEUES if of == name)
    if listed:
        return CampaignPlace(queue=queue, where="list", at=tuple(filter(None, (chunk, way))))
    if ready:
        return CampaignPlace(queue=queue, where="ready")
    return CampaignPlace(queue=queue, where="due", at=() if due[0] is None else tuple(due))


async def cancel_campaign(
    store: CancelStore, organisation_id: int, campaign: str, place: CampaignPlace
) -> CanceledCampaign:
    """Cancel from `place` on, as far as one call goes. Raises Unavailable: some may be canceled by then."""
    found, units = Cancellation(), 0
    following: CampaignPlace | None = place
    clock_s = asyncio.get_running_loop().time
    until_s = clock_s() + _CALL_S
    while following is not None:
        step = await store.cancel_campaign(organisation_id, campaign, following)
        found.canceled |= step.found.canceled
        found.in_hand |= step.found.in_hand
        found.given_before |= step.found.given_before
        units, following = units + step.units, step.next
        if len(found.canceled) >= _CANCELED_MAX or clock_s() >= until_s:
            break
    left = {"being_sent": len(found.in_hand), "may_be_sent": len(found.given_before)}
    return CanceledCampaign(
        campaign=campaign,
        canceled=len(found.canceled),
        units=units,
        not_canceled={code: count for code, count in left.items() if count},
        next=None if following is None else ":".join((following.queue, following.where, *following.at)),
    )
