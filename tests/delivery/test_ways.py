"""What a worker recalls, and when it does not."""

from __future__ import annotations

from engine.delivery.lanes import Lanes
from engine.delivery.ports import PutOff
from engine.delivery.ways import Ways
from engine.providers.settings import SimulatedSettings
from engine.records import Entry
from engine.routing.records import RoutingPlan
from tests.stores.redis.kit import message

OLD = "1 one"


def test_of_a_plan_that_is_over_no_more_is_recalled_until_half_of_that_has_come_or_a_second_is_over() -> None:
    ways = ways_of((0, 0))
    put_off = [PutOff(3, 1, OLD, 1000, 1.0), PutOff(4, 1, OLD, 1000, 1.0)]
    ways.note(put_off, 10.0)
    first = ways.wanted(10.0)
    assert [(of.shard, of.messages) for of in first] == [(3, 64), (4, 64)]
    for recall in first:
        ways.recalled(recall, 64, 64, 10.0)
    ways.note(put_off, 10.1)
    assert not ways.wanted(10.1)
    for n in range(32):
        ways.moves.came(
            Entry(shard=3, queue="normal", entry_id=b"%d-1" % n, message=message(f"m{n}"), way=OLD)
        )
    ways.note(put_off, 10.2)
    (again,) = ways.wanted(10.2)
    assert again.shard == 3
    ways.recalled(again, 64, 64, 10.2)
    # What was recalled may have come to another worker, or be lost with it.
    ways.note(put_off, 11.1)
    (other,) = ways.wanted(11.1)
    assert other.shard == 4
    # A way of which nothing waits is ended whatever is to come.
    ways.note([PutOff(3, 1, OLD, 0, 0.0)], 11.15)
    assert [of.shard for of in ways.wanted(11.15)] == [3]


def test_nothing_is_recalled_that_would_go_back_with_what_is_on_its_way_back() -> None:
    put_off = [PutOff(3, 1, "2 one", 1000, 1.0)]
    for putting_off, recalls in (((0, 0), 1), ((5, 0), 1), ((5, 5), 0)):
        ways = ways_of(putting_off)
        ways.note(put_off, 10.0)
        assert len(ways.wanted(10.0)) == recalls


def ways_of(putting_off: tuple[int, int]) -> Ways:
    lanes = Lanes([SimulatedSettings(name=name) for name in ("one", "two")], 50)
    ways = Ways("normal", lanes, lambda: putting_off)
    ways.use(RoutingPlan(version=2))
    return ways
