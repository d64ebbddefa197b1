"""What providers call back is noted in order, and what they raise ends the attempts."""

from __future__ import annotations

from collections.abc import Sequence

from engine.delivery.breaker import Breaker
from engine.delivery.lane import Lane
from engine.delivery.verdict_notes import Accepted, LaneVerdicts, VerdictNotes, submitting
from engine.providers.ports import Verdicts
from engine.records import Message, Verdict
from tests.delivery.carrier import Carrier
from tests.stores.redis.kit import log, message


def lane(name: str) -> Lane:
    return Lane(
        name, Breaker(failures=3, pause_s=2.0), timeout_s=10.0, in_flight_max=10, waiting_max=10
    )  # fmt: skip


def accepted(message_id: str, code: str = "") -> Verdict:
    return Verdict(kind="accepted", provider="p", provider_message_id=message_id, code=code, latency_us=5)


def test_what_one_provider_accepts_in_a_row_is_one_note_and_the_order_is_kept() -> None:
    rung: list[None] = []
    notes = VerdictNotes(lambda: rung.append(None))
    first, second = lane("first"), lane("second")
    one, other = LaneVerdicts(first, notes), LaneVerdicts(second, notes)
    failed = Verdict(kind="temporary", provider="p")
    assert not notes
    one.accepted([1, 2], ["a", "b"], [7, 8], "ok")
    one.ended(3, accepted("c", "ok"))
    one.ended(4, failed)
    one.ended(5, accepted("d", "ok"))
    one.ended(6, accepted("e", "other"))
    other.accepted([1], ["f"], [9], "other")
    assert notes
    assert notes.take() == [
        (first, 0, Accepted([1, 2, 3], ["a", "b", "c"], [7, 8, 5], "ok")),
        (first, 4, failed),
        (first, 0, Accepted([5], ["d"], [5], "ok")),
        (first, 0, Accepted([6], ["e"], [5], "other")),
        (second, 0, Accepted([1], ["f"], [9], "other")),
    ]
    assert not notes.take()
    # What is noted now is not added to what was taken.
    other.accepted([2], ["g"], [9], "other")
    assert notes.take() == [(second, 0, Accepted([2], ["g"], [9], "other"))]
    assert rung


class AllAtOnce(Carrier):
    """Takes the first of many messages, and fails."""

    def submit_all(self, messages: Sequence[Message], first: int, verdicts: Verdicts) -> None:
        verdicts.ended(first, accepted("a"))
        raise ZeroDivisionError("the provider's own")


def test_what_a_provider_raises_ends_the_attempts_it_was_given_as_unknown() -> None:
    notes, of = VerdictNotes(lambda: None), lane("p")
    submitting(AllAtOnce("p"), log())([message("a"), message("b")], 7, LaneVerdicts(of, notes))
    (_, _, first), *rest = notes.take()
    assert first == Accepted([7], ["a"], [5], "")
    fault = Verdict(kind="unknown", provider="p", code="fault")
    # The first verdict on a message counts.
    assert rest == [(of, 7, fault), (of, 8, fault)]
