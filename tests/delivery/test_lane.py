"""One provider's lane in a worker: who waits, who may go, and when it had better be avoided."""

from __future__ import annotations

import pytest

from engine.delivery.breaker import Breaker
from engine.delivery.lane import Lane
from engine.delivery.lanes import Lanes
from engine.delivery.put_off import PutOffTurns
from engine.delivery.ways import Ways
from engine.providers.settings import SimulatedSettings
from engine.records import Entry, Message, VerdictKind
from tests.stores.redis.kit import message


def entry(segments: int = 1) -> Entry:
    return Entry(shard=0, queue="normal", entry_id=b"1-0", message=message("m", segments=segments))


def of(organisation_id: int) -> Message:
    return message("m", segments=1, organisation_id=organisation_id)


def lane(*, timeout_s: float = 10.0, in_flight_max: int = 100, waiting_max: int = 100) -> Lane:
    return Lane(
        "carrier",
        Breaker(failures=3, pause_s=2.0),
        timeout_s=timeout_s,
        in_flight_max=in_flight_max,
        waiting_max=waiting_max,
    )


def submitted(lane: Lane, now_s: float) -> int:
    lane.add([entry()], now_s)
    assert lane.next(1, now_s)
    return lane.began([entry()], now_s)


def answered(lane: Lane, kind: VerdictKind, began_s: float, now_s: float) -> None:
    """The verdict of one that began then."""
    token = next(t for t, began in lane.awaited._began_s.items() if began == began_s)
    assert lane.ended(token, kind, now_s)


def test_no_more_go_than_may_be_in_flight() -> None:
    narrow = lane(in_flight_max=2)
    for _ in range(3):
        narrow.add([entry()], 0.0)
    for _ in range(2):
        assert narrow.next(1, 0.0)
        narrow.began([entry()], 0.0)
    assert narrow.next(1, 0.0) == []
    answered(narrow, "accepted", 0.0, 0.1)
    assert len(narrow.next(5, 0.1)) == 1


def test_a_provider_that_hangs_is_avoided_after_a_few_times_its_usual_answer() -> None:
    hung = lane()
    submitted(hung, 0.0)
    answered(hung, "accepted", 0.0, 0.6)
    for n in range(5):
        submitted(hung, 1.0 + n / 100)
    hung.look(2.1)
    assert hung.open(2.1)
    hung.look(2.3)
    assert not hung.open(2.3)
    assert (hung.awaited.expected, hung.awaited.in_flight) == (0, 5)


def test_a_slow_provider_that_answers_in_its_usual_time_is_not_taken_for_hung() -> None:
    slow = lane()
    submitted(slow, 0.0)
    answered(slow, "accepted", 0.0, 2.4)
    submitted(slow, 3.0)
    slow.look(7.7)
    assert slow.open(7.7)


def test_an_idle_provider_is_not_taken_for_hung_when_traffic_returns() -> None:
    idle = lane()
    submitted(idle, 0.0)
    answered(idle, "accepted", 0.0, 0.1)
    submitted(idle, 1000.0)
    idle.look(1000.5)
    assert idle.open(1000.5)


def test_an_answer_from_a_provider_taken_for_hung_brings_it_back() -> None:
    late = lane(timeout_s=4.0)
    submitted(late, 0.0)
    submitted(late, 0.0)
    late.look(1.5)
    assert not late.open(1.5)
    answered(late, "accepted", 0.0, 1.6)
    assert late.open(1.6)
    answered(late, "accepted", 0.0, 1.7)
    assert (late.awaited.in_flight, late.awaited.expected) == (0, 0)


def test_after_its_pause_one_message_probes_and_the_next_waits_for_its_verdict() -> None:
    broken = lane()
    for _ in range(3):
        submitted(broken, 0.0)
        answered(broken, "temporary", 0.0, 0.0)
    assert broken.shut(1.9)
    assert broken.open(2.0)
    submitted(broken, 2.0)
    assert not broken.open(2.0)
    broken.add([entry()], 2.0)
    assert broken.next(1, 2.0) == []
    assert not broken.shut(2.0)
    answered(broken, "accepted", 2.0, 2.1)
    assert broken.next(1, 2.1)


def test_a_provider_that_throttles_rests_longer_each_time_and_is_not_broken() -> None:
    hasty = lane()
    now_s = 0.0
    rests = []
    for _ in range(4):
        submitted(hasty, now_s)
        answered(hasty, "throttled", now_s, now_s)
        hasty.add([entry()], now_s)
        again_s = hasty.again_at_s(now_s)
        assert again_s is not None
        assert hasty.next(1, now_s) == []
        rests.append(round(again_s - now_s, 3))
        now_s = again_s
        hasty.leave()
    assert rests == [0.1, 0.2, 0.4, 0.8]
    assert hasty.open(now_s)


@pytest.mark.parametrize("rate", [500.0])
def test_messages_put_off_come_back_one_after_another_and_not_all_at_once(rate: float) -> None:
    full = lane(waiting_max=1)
    full.add([entry()], 0.0)
    assert full.room(0.0) <= 0
    pauses = [full.put_off_s(of(7), 1.0, 0.0) for _ in range(1000)]
    assert pauses == sorted(pauses)
    assert pauses[0] == 0.5
    assert pauses[-1] == pytest.approx(0.5 + 999 / rate)
    # No further than so much, however many there are.
    assert max(full.put_off_s(of(7), 1.0, 0.0) for _ in range(400_000)) == 600.0
    # Another organisation has turns of its own, at half the rate.
    assert [full.put_off_s(of(8), 1.0, 0.0) for _ in range(3)] == pytest.approx(
        [0.5, 0.5 + 2 / rate, 0.5 + 4 / rate]
    )


def test_what_waits_longer_than_answers_ever_take_may_be_given_up_and_its_late_verdict_is_not_heard() -> None:
    uneven = lane()
    submitted(uneven, 0.0)
    answered(uneven, "accepted", 0.0, 0.7)
    lost, fine = submitted(uneven, 1.0), submitted(uneven, 2.0)
    assert uneven.awaited.overdue(2.3) == []
    assert [token for token, _ in uneven.awaited.overdue(2.5)] == [lost]
    uneven.awaited.give_up(lost)
    assert uneven.awaited.overdue(2.5) == []
    assert not uneven.ended(lost, "accepted", 2.6)
    assert uneven.ended(fine, "accepted", 2.6)
    assert (uneven.awaited.in_flight, uneven.awaited.expected) == (0, 0)


def test_all_that_a_stalled_provider_owes_is_overdue_at_once() -> None:
    hung = lane()
    submitted(hung, 0.0)
    answered(hung, "accepted", 0.0, 0.1)
    tokens = [submitted(hung, 1.0 + n / 10) for n in range(10)]
    assert hung.awaited.overdue(1.95) == []
    hung.look(2.1)
    assert [token for token, _ in hung.awaited.overdue(2.1)] == tokens


def test_organisations_that_put_messages_off_share_the_rate_by_their_weights() -> None:
    turns = PutOffTurns()
    now_s, sent = 0.0, dict.fromkeys((1, 2, 3), 0)
    weights = {1: 1.0, 2: 2.0, 3: 0.5}
    last_s = dict.fromkeys(weights, 0.0)
    for n in range(6000):
        for organisation_id, weight in weights.items():
            # As many as come back within a minute.
            if last_s[organisation_id] < 60.0:
                last_s[organisation_id] = turns.pause_s(organisation_id, weight, 1, 100.0, 0.5, now_s)
                sent[organisation_id] += n > 10
    whole = sum(sent.values())
    shares = [sent[o] / whole for o in weights]
    assert shares == pytest.approx([w / 3.5 for w in weights.values()], abs=0.02)


def ways() -> Ways:
    found = Ways("normal", Lanes([SimulatedSettings(name="carrier")], 100))
    found.version = 1
    return found


def test_a_crowded_lane_takes_what_was_recalled_up_to_twice_what_fills_it_and_nothing_else() -> None:
    full = lane(waiting_max=8)

    known = ways()

    def comes(way: str = "") -> bool:
        one = Entry(shard=0, queue="normal", entry_id=b"1-0", message=of(7), way=way)
        if known.takes(full, one, 0.0):
            full.add([one], 0.0)
            return True
        return False

    assert [comes() for _ in range(9)] == [True] * 8 + [False]
    assert [comes("1 p") for _ in range(9)] == [True] * 8 + [False]
    full.leave()
    full.behind = True
    assert not comes()
    # What was put off by the plan before has no turn yet.
    assert not comes("0 p")
    assert comes("1 p")


def test_a_lane_that_rests_takes_nothing() -> None:
    resting = lane()
    answered(resting, "throttled", 0.0 * submitted(resting, 0.0), 0.0)
    recalled = Entry(shard=0, queue="normal", entry_id=b"1-0", message=of(8), way="1 p")
    assert not ways().takes(resting, recalled, 0.01)
