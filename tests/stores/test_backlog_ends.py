"""When a backlog ends, where what is left waits for another provider than what left lately."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.limits.pace import LinePace
from engine.stores.backlog_ends import Behind, Shard, Waits, Way, ends_in_ms

TAKES = {"slow": 50.0, "quick": 2000.0, "free": None}


def waits(organisation_id: int, ways: Mapping[int, int], **changes: Any) -> Waits:
    """Of messages of one segment, all of it put off; `ways`: by number."""
    given_ = {"weight": 1.0, "paused": False, "segments": sum(ways.values()), "turned": 0, "off": 0} | changes
    by_number = {number: (count, count) for number, count in ways.items()}
    return Waits(organisation_id=organisation_id, messages=given_["segments"], ways=by_number, **given_)


def way(number: int, text: str, messages: int, weight: float = 1.0, moved: int = 500) -> Way:
    return Way(number, text, messages, weight, moved)


def shard(
    rows: Sequence[Waits], ways: Sequence[Way], moved: int = 20_000, others: int = 0, weight: float = 0.0
) -> Shard:
    """A line of which turns have moved so many segments in ten seconds. Behind its stream wait those of
    `rows`, and so many messages of others, who have this weight."""
    behind = [(row.behind[0], row.weight) for row in rows if row.behind[0] and not row.paused]
    line = LinePace(moved, 60_000, 6 * moved, weight + sum(weight for _, weight in behind))
    return Shard(rows, ways, Behind(others + sum(messages for messages, _ in behind), line))


def ends(*shards: Shard, takes: Mapping[str, float | None] = TAKES) -> dict[int, int | None]:
    return ends_in_ms(shards, takes)


def test_what_is_put_off_for_a_slow_provider_ends_by_what_that_takes_not_by_what_left_for_others() -> None:
    assert ends(shard([waits(7, {1: 1200})], [way(1, "3 slow", 1200)])) == {7: 24_000}
    # The first provider that messages may be sent through counts.
    assert ends(shard([waits(7, {1: 1200})], [way(1, "3 slow,quick", 1200)])) == {7: 24_000}
    no_slow = {name: rate for name, rate in TAKES.items() if name != "slow"}
    assert ends(shard([waits(7, {1: 1200})], [way(1, "3 slow,quick", 1200)]), takes=no_slow) == {7: 600}


def test_what_waits_for_two_providers_ends_with_the_later() -> None:
    both = shard([waits(7, {1: 500, 2: 8000})], [way(1, "3 slow", 500), way(2, "3 quick", 8000)])
    assert ends(both) == {7: 10_000}
    # By an earlier plan and by this one, for the same provider.
    plans = shard([waits(7, {1: 500, 2: 500})], [way(1, "3 slow", 500), way(2, "4 slow", 500)])
    assert ends(plans) == {7: 20_000}


def test_a_provider_without_a_throughput_is_counted_by_what_was_recalled_for_it() -> None:
    assert ends(shard([waits(7, {1: 500})], [way(1, "3 free", 500, moved=100)])) == {7: 50_000}


@pytest.mark.parametrize(
    ("text", "moved", "takes"),
    [
        # Paused, or in no configuration.
        ("3 paused", 500, TAKES),
        # Broken, however much it might take.
        ("3 slow", 0, TAKES),
        ("3 free", 0, TAKES),
        # PostgreSQL does not say what is in force.
        ("3 slow", 500, {}),
    ],
)
def test_it_is_not_known_where_nobody_takes_it(
    text: str, moved: int, takes: Mapping[str, float | None]
) -> None:
    assert ends(shard([waits(7, {1: 9})], [way(1, text, 9, moved=moved)]), takes=takes) == {7: None}


def test_a_provider_that_takes_little_need_not_have_taken_anything_lately() -> None:
    takes = {"slow": 0.05}
    assert ends(shard([waits(7, {1: 9})], [way(1, "3 slow", 9, moved=0)]), takes=takes) == {7: 180_000}


def test_what_moves_from_a_plan_to_the_next_ends_by_the_throughputs_of_both() -> None:
    ways = [way(1, "3 slow", 500, moved=0), way(2, "4 quick", 500, moved=0)]
    assert ends(shard([waits(7, {1: 500, 2: 500})], ways)) == {7: 10_000}


def test_what_is_behind_the_stream_ends_at_the_pace_of_all_lines() -> None:
    assert ends(shard([waits(7, {}, segments=4000)], [], 1000)) == {7: 40_000}
    assert ends(shard([waits(7, {}, segments=4000)], [], 0)) == {7: None}
    assert ends(shard([waits(7, {1: 9}, paused=True)], [way(1, "3 slow", 9, 0.0)])) == {7: None}
    # Those of all shards share it by their weights, also those that are not told. The paused take nothing.
    one = shard([waits(7, {}, segments=300), waits(9, {}, segments=900, paused=True)], [], 600)
    other = shard([waits(8, {}, segments=300, weight=3.0)], [], 400, others=100, weight=1.0)
    assert ends(one, other) == {7: 7000, 8: 5000, 9: None}


def test_of_what_is_behind_the_stream_as_much_will_be_put_off_as_lately() -> None:
    # Half of what turns moved was put off: of 10,000 behind the stream another 5,000 will be.
    mixed = waits(7, {1: 1000}, segments=11_000, turned=20_000, off=10_000)
    assert ends(shard([mixed], [way(1, "3 slow", 1000)])) == {7: 120_000}


def test_organisations_beyond_those_that_are_known_take_their_share_too() -> None:
    known = [waits(7, {1: 100}), waits(8, {1: 100}, paused=True)]
    # Ten others of weight 1 have 100 messages each.
    assert ends(shard(known, [way(1, "3 slow", 1200, weight=11.0)]))[7] == 22_000


def finished(shares: Mapping[int, tuple[int, float]], rate: float) -> dict[int, float]:
    """When each is done, seconds, if all are served at once in proportion to their weights, step by step."""
    left, done, at_s = {who: float(segments) for who, (segments, _) in shares.items()}, {}, 0.0
    while left:
        weight = sum(shares[who][1] for who in left)
        first = min(left, key=lambda who: left[who] / shares[who][1])
        step_s = left[first] / shares[first][1] * weight / rate
        for who in left:
            left[who] -= step_s * rate * shares[who][1] / weight
        at_s += step_s
        done[first] = at_s
        del left[first]
    return done


@given(
    st.dictionaries(
        st.integers(1, 99),
        st.tuples(st.integers(1, 10_000), st.sampled_from((0.1, 1.0, 2.5, 100.0)), st.integers(0, 2)),
        min_size=1,
        max_size=12,
    )
)
def test_organisations_of_all_shards_share_a_provider_by_their_weights(
    shares: dict[int, tuple[int, float, int]],
) -> None:
    shards = []
    for at in range(3):
        of = {who: share for who, share in shares.items() if share[2] == at}
        rows = [waits(who, {1: segments}, weight=weight) for who, (segments, weight, _) in of.items()]
        messages, weight = sum(share[0] for share in of.values()), sum(share[1] for share in of.values())
        shards.append(shard(rows, [way(1, "3 slow", messages, weight)]))
    expected = finished({who: share[:2] for who, share in shares.items()}, 50.0)
    found = ends(*shards)
    assert found.keys() == expected.keys()
    for who, at_s in expected.items():
        assert found[who] == pytest.approx(1000 * at_s, rel=1e-6, abs=1.0)


def test_nothing_is_known_while_all_are_paused_and_the_pace_counts_where_none_is_configured() -> None:
    behind = shard([waits(7, {}, segments=100)], [], 20)
    assert ends(behind) == {7: 50_000}
    assert ends(behind, takes={}) == {7: None}
    assert ends_in_ms([behind], None) == {7: 50_000}
