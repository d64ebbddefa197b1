"""Rule: which messages a lane takes that is crowded, and which are put off.

One organisation's long backlog that is put off comes back again and again, and would take whatever room there
is; others would seldom find any. So a crowded lane still takes the messages of an organisation that has less
waiting in it than its part, by the weights of those that have messages put off, up to twice what makes the
lane crowded.

Times are monotonic seconds.
"""

from __future__ import annotations

from engine.delivery.lane import Lane
from engine.records import Message

# A lane takes nothing more when it has so many times what makes it crowded.
_CROWDED_MAX = 2


def takes(lane: Lane, message: Message, weight: float, now_s: float) -> bool:
    """Whether a message of an organisation of this weight may wait in the lane; else it is put off."""
    room = lane.room(now_s)
    if room > 0:
        return True
    of_rate = lane.allowance is not None
    waiting = lane.waiting_segments if of_rate else len(lane.waiting)
    # While the lane rests it has no room at all.
    crowded_from = waiting + room
    if waiting >= _CROWDED_MAX * crowded_from:
        return False
    part = crowded_from * lane.put_off.part(message.organisation_id, weight)
    own = 0
    for entry, _ in lane.waiting:
        if entry.message.organisation_id == message.organisation_id:
            own += entry.message.segments if of_rate else 1
            if own >= part:
                return False
    return True
