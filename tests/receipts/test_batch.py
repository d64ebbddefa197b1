"""A batch of receipts asks for what it needs and remembers what is not in the store yet."""

from __future__ import annotations

from engine.receipts.batch import Search, Unseen
from engine.receipts.match import NOTHING, Known, Match
from engine.records import ActivityRow
from tests.receipts.test_match import T0, attempt, receipt

OURS = attempt().message_id
SETTLED_US = T0 + 10**9


def told(*wanted: object) -> list[ActivityRow]:
    """Rows that a batch of these receipts makes of one attempt that the store has."""
    search = Search(list(wanted), {}, SETTLED_US)  # type: ignore[arg-type]
    search.learn({("one", "ab12"): [attempt()]})
    return [row for rows in search.rows(Unseen()) for row in rows]


def test_the_first_question_is_for_each_id_as_it_is_written() -> None:
    search = Search(
        [receipt(), receipt(provider_message_id="0AB12"), receipt(provider="two"),
         receipt(provider_message_id="", message_id=OURS)], {}, SETTLED_US,
    )  # fmt: skip
    assert search.first_keys() == {("one", "ab12"), ("two", "ab12"), ("one", OURS.lstrip("0"))}


def test_the_second_question_is_only_for_what_the_first_did_not_find() -> None:
    search = Search([receipt(), receipt(provider_message_id="10", message_id=OURS.upper())], {}, SETTLED_US)
    search.learn({("one", "ab12"): [attempt()]})
    assert search.further_keys() == {("one", "a"), ("one", "16"), ("one", OURS.lstrip("0"))}
    assert search.message_ids() == {OURS}
    search.learn({}, {OURS: [attempt()]})
    assert all(isinstance(outcome, Match) for outcome in search.outcomes)
    assert (search.further_keys(), search.message_ids()) == (set(), set())


def test_a_provider_whose_base_is_set_is_not_asked_about_in_others() -> None:
    search = Search([receipt(provider_message_id="10")], {"one": "hex-to-decimal"}, SETTLED_US)
    assert search.first_keys() == {("one", "a")}
    assert search.further_keys() == set()


def test_receipts_about_one_attempt_are_taken_together_in_the_order_in_which_they_came() -> None:
    rows = told(receipt("delivered", at_us=T0 + 9), receipt("undelivered", at_us=T0 + 8), receipt("pending"))
    assert [row.event for row in rows] == ["undelivered", "delivered"]
    assert [row.event for row in told(receipt(), receipt())] == ["delivered"]


def test_what_was_recorded_and_is_not_in_the_store_yet_is_known() -> None:
    unseen = Unseen()
    [row] = told(receipt())
    unseen.add(3, (100, 0), [row])
    search = Search([receipt()], {}, SETTLED_US)
    search.learn({("one", "ab12"): [attempt()]})
    assert search.rows(unseen) == []


def test_a_receipt_of_a_provider_that_sends_one_a_message_is_about_the_whole() -> None:
    told = [receipt(provider_message_id="A2")]
    under = {("one", "a2"): [attempt(provider_message_id="A1,A2", segments=2)]}
    for per_message, segment in ((("one",), 0), (("two",), 2), ((), 2)):
        search = Search(told, {}, SETTLED_US, per_message)
        search.learn(under)
        [found] = search.outcomes
        assert isinstance(found, Match)
        assert found.segment == segment


def test_what_was_recorded_is_remembered_until_the_archiver_is_past_it() -> None:
    unseen = Unseen()
    [row] = told(receipt("pending"))
    [last] = told(receipt("undelivered"))
    unseen.add(3, (100, 0), [row])
    unseen.add(3, (100, 7), [last])
    known = Known(codes=frozenset(("ENROUTE",)), undelivered=True)
    unseen.forget({3: (100, 0)})
    assert unseen.known(OURS, 1) == known
    unseen.forget({3: (100, 7), 4: None})
    assert unseen.known(OURS, 1) == known, "the last of its entries is not in the store"
    assert len(unseen) == 1
    unseen.forget({3: (100, 8)})
    assert (unseen.known(OURS, 1), len(unseen)) == (NOTHING, 0)
    unseen.add(2, (200, 0), [row])
    unseen.forget({2: None})
    assert len(unseen) == 0, "an empty stream has archived everything"
