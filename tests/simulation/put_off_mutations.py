"""A world in which much is put off, and ways to spoil how that waits and comes back; see mutations.py."""

from __future__ import annotations

from engine.routing.records import Route, RoutingPlan
from tests.simulation.line import Line
from tests.simulation.put_off import Aside

# Two limited providers that everything goes through, the one first and then the other, and one of them alone.
SEVERAL = [
    RoutingPlan(version=version, routes=routes, throughput={"carrier": 200.0, "other": 60.0}, paused=paused)
    for version, routes, paused in (
        (1, (Route(prefix="", providers=("carrier", "other")),), ()),
        (1, (Route(prefix="", providers=("carrier", "other")),), ()),
        (2, (Route(prefix="", providers=("other", "carrier")),), ()),
        (3, (Route(prefix="", providers=("other",)),), ()),
        (4, (Route(prefix="", providers=("carrier", "other")),), ("carrier",)),
    )
]


def lose_when_recalled(self: Line, of: Aside) -> int:
    segments, _ = self.store.list_pop(self.wait, of.name)
    self.count_aside(of, -1)
    return segments


def recall_a_copy(self: Line, of: Aside) -> int:
    segments, payload = self.store.lists(self.wait)[of.name][0]
    moved = Line.move_aside(self, of)
    self.store.list_push(self.wait, of.name, segments, payload)
    self.count_aside(of, 1)
    return moved


def put_off_to_nowhere(self: Line, came: list[tuple[str, bytes]]) -> None:
    """What is put off leaves its entry and is nowhere."""
