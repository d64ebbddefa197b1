"""Ways to spoil how slots of a limited provider are handed out and used; see mutations.py."""

from __future__ import annotations

from engine.routing.ports import SlotRequest
from engine.routing.throughput import Allowance
from tests.routing.throughput_model import Timeline

_reserve = Timeline.reserve


def take_without_slots(self: Allowance, segments: int, now_s: float) -> bool:
    return True


def grant_the_same_again(self: Timeline, ask: SlotRequest, now: float) -> tuple[int, int]:
    """Redis does not keep what it has granted."""
    before = self.state
    granted = _reserve(self, ask, now)
    self.state = before or self.state
    return granted
