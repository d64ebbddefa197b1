"""Service: messages that a worker has in hand and does not send now go back to Redis, to their place.

    no room, or its providers    put off (`engine.delivery.ways`): behind what is put off there; before that,
    are closed                   when it waited in a lane, because what was put off meanwhile came later
    the worker ends, what it     to the front of its organisation's backlog; to the front of what is put off,
    is for is paused, or its     when it was recalled, or waited in a lane for which something is put off or
    only provider is closed      was recalled: that came later, and goes back to what is put off, too

What lies unread in Redis of the same list goes back behind it in the same step (`take_unread` in
functions/queue). Reads under way give what came later still. So where nothing may be sent, what they give
goes back as well, until none is under way and all that went back is written (`Unsent.all_back`).

    killed before it is written  it is pending, and others take it over: it counts as tried
    written twice                the second moves nothing
    several workers              what the others have in hand by then is sent before it
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from engine.delivery.lane import Lane
from engine.delivery.lanes import Lanes
from engine.delivery.provider_choice import ProviderChoice
from engine.delivery.settler import Settler
from engine.delivery.ways import Ways, providers_of
from engine.records import Entry
from engine.routing.routes import Candidates


class Unsent:
    """Takes what one worker does not send now. Times are monotonic seconds."""

    def __init__(
        self,
        lanes: Lanes,
        ways: Ways,
        choice: ProviderChoice,
        settler: Settler,
        *,
        puts_off: Callable[[], bool],
        weight_of: Callable[[int], float],
    ) -> None:
        """`puts_off` and `weight_of`: as of `Dispatcher`."""
        self._lanes = lanes
        self._ways = ways
        self._choice = choice
        self._settler = settler
        self._puts_off = puts_off
        self._weight_of = weight_of
        # Whether what a read gives goes back as well, because what came before it did. Whoever reads unsets
        # it.
        self.all_back = False

    def put_off(self, entry: Entry, lane: Lane, candidates: Candidates, now_s: float, *, front: bool) -> None:
        """Put off a message that would go to `lane`. `front`: it waited in a lane."""
        message = entry.message
        if not self._puts_off():
            weight = self._weight_of(message.organisation_id)
            self._settler.put_off(entry, lane.put_off_s(message, weight, now_s))
            return
        self._settler.put_off(entry, 0.0, self._way(entry, lane, candidates), front=front)
        lane.behind = lane.behind_lately = True
        self._lanes.put_off += 1

    def give_back(self, entries: Iterable[Entry]) -> None:
        """Give back entries that were only read."""
        for entry in entries:
            self._put_back(entry)

    def leave(self, which: Callable[[Entry], bool] = lambda entry: True) -> None:
        """Give back what waits in the lanes, or some of it."""
        for lane in self._lanes:
            entries = [entry for entry, _ in lane.leave(which)]
            to_way = len(self._lanes) > 1 and self._puts_off() and self._is_waited_for(lane, entries)
            for entry in entries:
                if to_way and not entry.way:
                    way = self._way(entry, lane, self._choice.candidates(entry.message))
                    self._settler.put_off(entry, 0.0, way, front=True)
                    lane.behind = lane.behind_lately = True
                else:
                    self._put_back(entry)

    def _is_waited_for(self, lane: Lane, entries: Iterable[Entry]) -> bool:
        """Whether something is put off for a lane, or was recalled for it and has not been sent.

        What was recalled is among `entries`, which leave the lane, or has not come yet.
        """
        return lane.behind or self._ways.expects(lane) or any(entry.way for entry in entries)

    def _put_back(self, entry: Entry) -> None:
        # What was recalled is put off again, also where Redis has said before that nothing is.
        for name in providers_of(entry.way) if entry.way else ():
            if (lane := self._lanes.by_name.get(name)) is not None:
                lane.behind = lane.behind_lately = True
        self._settler.put_back(entry)

    def _way(self, entry: Entry, lane: Lane, candidates: Candidates) -> str:
        """The way of a message that would go to `lane`.

        Messages of one route wait in one, in order, whichever provider would be the first one now; unless
        they draw one, or have been tried with some.
        """
        names, tried = candidates.providers, entry.message.tried
        if candidates.weights or tried or lane.name not in names:
            names = (lane.name, *(n for n in names if n != lane.name and n not in tried))
        return self._ways.text(names)
