"""From which shards a worker takes what waits: few at a time, and all by the weight that waits there."""

from __future__ import annotations

import pytest

from engine.stores.redis.backlog import Backlog
from engine.stores.redis.visits import Visits, is_visited, steps_to


@pytest.mark.parametrize(
    ("weights", "lengths"),
    [
        (dict.fromkeys(range(12), 10) | {12: 40, 13: 5}, {}),
        ({0: 1000, 1: 10}, {}),
        ({0: 30, 1: 10}, {}),
        ({0: 80, 1: 10, 2: 10, 3: 10}, {}),
        ({0: 10_000} | dict.fromkeys(range(1, 16), 10), {}),
        ({0: 10, 1: 10}, {1: 8}),
    ],
)
@pytest.mark.parametrize("count", [1, 30, 200, 512, 1024, 5000])
@pytest.mark.parametrize("ready_max", [256, 2048])
def test_what_waits_is_taken_from_few_shards_at_a_time_and_from_all_by_the_weight_that_waits_there(
    weights: dict[int, int], lengths: dict[int, int], count: int, ready_max: int
) -> None:
    backlog = Backlog()
    backlog.note(weights, weights.values())
    visits, given, visited, reads = Visits(backlog), dict.fromkeys(weights, 0), 0, 3000
    for _ in range(reads):
        asked, taken = visits.shares(range(16), list(weights), weights, count, count, ready_max)
        # A small rest is left to the next read.
        assert 0 < sum(taken.values()) <= count
        visited += len(taken)
        # What comes elsewhere is looked for, each shard is asked once, and all that is taken is read.
        entries = {shard: most for of, most in asked for shard in of}
        assert sorted(entries) == list(range(16)) == sorted(shard for of, _ in asked for shard in of)
        assert all(entries[shard] >= messages for shard, messages in taken.items())
        segments = {shard: messages * lengths.get(shard, 1) for shard, messages in taken.items()}
        backlog.length = sum(segments.values()) / sum(taken.values())
        visits.gave(segments)
        given = {shard: given[shard] + segments.get(shard, 0) for shard in given}
    whole = sum(given.values())
    for shard, weight in weights.items():
        share = whole * weight / sum(weights.values())
        # What one read gives, at most.
        assert abs(given[shard] - share) <= 2 * count * lengths.get(shard, 1) + 256, (shard, share)
    assert visited <= reads * max(3.0, len(weights) / 2)


def test_what_was_due_to_a_shard_is_forgotten_where_it_is_read_in_another_way_meanwhile() -> None:
    backlog = Backlog()
    backlog.note([3, 5], [10, 10])
    visits = Visits(backlog)
    visits.shares(range(16), [3, 5], {3: 10, 5: 10}, 200, 200, 256)
    visits.forget()
    for _ in range(20):
        visits.gave({3: 200})
    # Idleness has earned shard 5 nothing.
    given = dict.fromkeys((3, 5), 0)
    for _ in range(10):
        _, taken = visits.shares(range(16), [3, 5], {3: 10, 5: 10}, 200, 200, 256)
        visits.gave(taken)
        given = {shard: given[shard] + taken.get(shard, 0) for shard in given}
    assert abs(given[3] - given[5]) <= 400


def test_of_bundles_that_lie_in_streams_not_many_more_are_asked_for_than_there_is_room() -> None:
    backlog = Backlog()
    backlog.note([3, 5], [10, 10])
    asked, taken = Visits(backlog).shares(range(16), [3, 5], {3: 10, 5: 10}, 300, 6, 2048)
    # All that a step makes ready is read, also where its bundles are half full.
    entries = {shard: most for of, most in asked for shard in of}
    assert all(entries[shard] >= 2 * messages / 50 for shard, messages in taken.items())
    # A bundle has fifty messages.
    assert sum(50 * most for most in entries.values()) <= 300 + 50 * (16 * 4 + 20 * len(taken))


def test_of_one_shard_alone_nothing_is_taken_and_of_several_as_long_as_messages_wait_there() -> None:
    backlog = Backlog()
    backlog.note([3], [10])
    assert not is_visited(backlog, 3)
    backlog.note([4], [10])
    assert [is_visited(backlog, shard) for shard in (3, 4, 5)] == [True, True, False]
    backlog.note([4], [0])
    assert not is_visited(backlog, 3)


def test_a_shard_takes_as_many_steps_as_move_what_is_taken_of_it() -> None:
    assert [steps_to(n) for n in (1, 256, 257, 600)] == [[1], [256], [256, 257], [256, 512, 600]]
