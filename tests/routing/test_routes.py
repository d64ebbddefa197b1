"""A message goes the way of the most specific route, and to one who can take it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.records import Message, Queue
from engine.routing.records import Route, RoutingPlan
from engine.routing.routes import Candidates, Router, choose, first_wrong

NAMES = ("a", "b", "c")
RNG = random.Random(1)


def anyone(name: str) -> bool:
    return True


def only(*names: str) -> Callable[[str], bool]:
    return lambda name: name in names


def message(to: str = "+4915112345678", sender: str = "") -> Message:
    return Message(
        id="m", organisation_id=1, to=to, text="x", sender=sender, encoding="GSM-7", segments=1, units=1,
        accepted_at_us=0, expires_at_us=1,
    )  # fmt: skip


def router(*routes: Route, names: tuple[str, ...] = NAMES, **plan: Any) -> Router:
    return Router(RoutingPlan(version=1, routes=routes, **plan), names)


def way(r: Router, to: str, sender: str = "", queue: Queue = "normal") -> tuple[str, ...]:
    return r.candidates(message(to, sender), queue).providers


def test_without_any_route_everyone_carries_everything_in_order() -> None:
    everyone = router().candidates(message(), "express")
    assert (everyone.providers, everyone.weights, everyone.routed) == (NAMES, (), True)


def test_where_no_route_matches_nobody_carries_it() -> None:
    nowhere = router(Route(prefix="+98", providers=("a",))).candidates(message("+49151"), "normal")
    assert (nowhere.providers, nowhere.routed) == ((), False)
    assert choose(nowhere, (), anyone, RNG) is None


def test_the_longest_prefix_wins() -> None:
    r = router(
        Route(providers=("a",)),
        Route(prefix="+49", providers=("b",)),
        Route(prefix="+49151", providers=("c",)),
    )
    assert [way(r, to) for to in ("+4915199", "+4917099", "+989121", "+49")] == [
        ("c",),
        ("b",),
        ("a",),
        ("b",),
    ]


def test_of_one_prefix_the_sender_goes_before_the_queue_and_both_before_either() -> None:
    r = router(
        Route(prefix="+49", providers=("a",)),
        Route(prefix="+49", queue="express", providers=("b",)),
        Route(prefix="+49", sender="Acme", providers=("c",)),
        Route(prefix="+49", sender="Acme", queue="express", providers=("a", "b")),
    )
    assert way(r, "+4915", "Acme", "express") == ("a", "b")
    assert way(r, "+4915", "Acme", "normal") == ("c",)
    assert way(r, "+4915", "Other", "express") == ("b",)
    assert way(r, "+4915", "", "express") == ("b",)
    assert way(r, "+4915", "Other", "normal") == ("a",)


def test_a_prefix_whose_routes_are_all_for_others_leaves_it_to_the_shorter_one() -> None:
    r = router(Route(providers=("a",)), Route(prefix="+49", sender="Acme", providers=("b",)))
    assert way(r, "+4915", "Acme") == ("b",)
    assert way(r, "+4915", "Other") == ("a",)


ROUTES = st.lists(
    st.builds(
        Route,
        prefix=st.text("12", max_size=3).map(lambda digits: "+" + digits if digits else ""),
        sender=st.sampled_from(["", "", "Acme"]),
        queue=st.sampled_from(["", "", "express", "normal"]),
        providers=st.permutations(NAMES).flatmap(lambda n: st.integers(1, 3).map(lambda k: tuple(n[:k]))),
    ),
    max_size=12,
    unique_by=lambda route: (route.prefix, route.sender, route.queue),
)


@given(
    ROUTES,
    st.text("12", max_size=5),
    st.sampled_from(["", "Acme", "Other"]),
    st.sampled_from(["express", "normal"]),
)
def test_it_agrees_with_a_walk_over_all_routes(
    routes: list[Route], digits: str, sender: str, queue: Queue
) -> None:
    found = router(*routes).candidates(message("+" + digits, sender), queue)
    matching = [
        route
        for route in routes
        if ("+" + digits).startswith(route.prefix)
        and route.sender in ("", sender)
        and route.queue in ("", queue)
    ]
    if routes:
        assert found.routed == bool(matching)
    if matching:
        best = max(matching, key=lambda r: (len(r.prefix), r.sender != "", r.queue != ""))
        assert found.providers == best.providers


def test_a_look_up_costs_the_same_with_many_routes() -> None:
    """Counted, not timed: one look at what is remembered, and one at each length of prefix there is."""

    class Counting(str):
        cuts = 0

        def __getitem__(self, key: Any) -> str:
            Counting.cuts += 1
            return super().__getitem__(key)

    for count in (10, 5_000):
        r = router(*(Route(prefix=f"+{100_000 + n}", providers=("a",)) for n in range(count)))
        Counting.cuts = 0
        told = msgspec.structs.replace(message(), to=Counting("+99999999"))
        assert not r.candidates(told, "normal").routed
        assert Counting.cuts == 2
        assert not r.candidates(told, "normal").routed
        assert Counting.cuts == 3


@given(ROUTES, st.lists(st.tuples(st.text("12", max_size=5), st.sampled_from(["", "Acme", "Other"]),
                                  st.sampled_from(["express", "normal"])), max_size=20))  # fmt: skip
def test_what_is_remembered_of_other_messages_changes_nothing(
    routes: list[Route], asked: list[tuple[str, str, Queue]]
) -> None:
    remembering = router(*routes)
    for digits, sender, queue in asked:
        told = message("+" + digits, sender)
        assert remembering.candidates(told, queue) == router(*routes).candidates(told, queue)


def test_in_order_the_first_who_can_is_chosen_and_who_has_tried_is_not() -> None:
    candidates = router().candidates(message(), "normal")
    assert choose(candidates, (), anyone, RNG) == "a"
    assert choose(candidates, ("a",), anyone, RNG) == "b"
    assert choose(candidates, (), only("b", "c"), RNG) == "b"
    assert choose(candidates, ("b",), only("b", "c"), RNG) == "c"


def test_when_all_have_tried_or_nobody_left_is_usable_there_is_none() -> None:
    candidates = router().candidates(message(), "normal")
    assert choose(candidates, NAMES, anyone, RNG) is None
    assert choose(candidates, ("a", "b"), only("a", "b"), RNG) is None
    assert choose(candidates, (), only(), RNG) is None
    assert choose(candidates, ("gone", "away"), anyone, RNG) == "a", (
        "who is no candidate any more counts for nothing"
    )


def test_nothing_goes_through_who_is_paused_and_the_message_is_not_lost() -> None:
    r = router(Route(providers=("a", "b"), weights=(1, 1)), paused=("a", "elsewhere"))
    candidates = r.candidates(message(), "normal")
    assert {choose(candidates, (), anyone, RNG) for _ in range(50)} == {"b"}
    assert [r.paused(name) for name in NAMES] == [True, False, False]
    stopped = router(Route(providers=("a",)), paused=("a",)).candidates(message(), "normal")
    assert (stopped.routed, stopped.providers) == (True, ("a",))
    assert choose(stopped, (), anyone, RNG) is None
    everywhere = router(paused=NAMES).candidates(message(), "normal")
    assert (everywhere.routed, choose(everywhere, (), anyone, RNG)) == (True, None)


def test_a_provider_that_this_process_does_not_know_is_passed_over_with_its_weight() -> None:
    r = router(
        Route(providers=("new", "a", "b"), weights=(98, 2, 0)), Route(prefix="+98", providers=("new",))
    )
    candidates = r.candidates(message(), "normal")
    assert (candidates.providers, candidates.weights) == (("a", "b"), (2, 0))
    assert choose(candidates, (), anyone, RNG) == "a"
    waits = r.candidates(message("+98912"), "normal")
    assert (waits.routed, choose(waits, (), anyone, RNG)) == (True, None)


def test_weights_are_shares() -> None:
    candidates = router(Route(providers=NAMES, weights=(5, 3, 2))).candidates(message(), "normal")
    rng = random.Random(7)
    drawn = Counter(choose(candidates, (), anyone, rng) for _ in range(20_000))
    for name, share in zip(NAMES, (0.5, 0.3, 0.2), strict=True):
        # Five standard deviations of a binomial.
        assert abs(drawn[name] / 20_000 - share) < 5 * (share * (1 - share) / 20_000) ** 0.5


def test_the_share_of_one_who_cannot_goes_to_the_others_in_proportion() -> None:
    candidates = router(Route(providers=NAMES, weights=(5, 3, 2))).candidates(message(), "normal")
    rng = random.Random(7)
    drawn = Counter(choose(candidates, ("a",), anyone, rng) for _ in range(20_000))
    assert drawn["a"] == 0
    assert abs(drawn["b"] / 20_000 - 0.6) < 0.02


def test_a_share_of_0_is_for_when_nobody_else_can() -> None:
    candidates = router(Route(providers=NAMES, weights=(0, 1, 0))).candidates(message(), "normal")
    assert {choose(candidates, (), anyone, RNG) for _ in range(100)} == {"b"}
    assert {choose(candidates, ("b",), anyone, RNG) for _ in range(100)} == {"a"}
    assert choose(candidates, ("a", "b"), anyone, RNG) == "c"


@settings(max_examples=300)
@given(
    weights=st.one_of(
        st.just(()), st.lists(st.integers(0, 5), min_size=3, max_size=3).filter(any).map(tuple)
    ),
    paused=st.sets(st.sampled_from(NAMES)),
    tried=st.lists(st.sampled_from(NAMES), max_size=4),
    able=st.sets(st.sampled_from(NAMES)),
    seed=st.integers(0, 1000),
)
def test_whoever_is_chosen_can_and_there_is_one_whenever_someone_can(
    weights: tuple[int, ...], paused: set[str], tried: list[str], able: set[str], seed: int
) -> None:
    r = router(Route(providers=NAMES, weights=weights), paused=tuple(paused))
    usable = only(*able)
    chosen = choose(r.candidates(message(), "normal"), tuple(tried), usable, random.Random(seed))
    possible = able - paused - set(tried)
    assert (chosen is None) == (not possible)
    assert chosen is None or chosen in possible


def test_candidates_say_whether_to_send_again_by_another() -> None:
    assert router(Route(providers=("a",), reroute=True)).candidates(message(), "normal").reroute
    assert not router().candidates(message(), "normal").reroute
    assert Candidates() == ((), (), (), False, True)


def test_routes_that_are_right_have_nothing_wrong() -> None:
    right = [
        Route(providers=("a",)),
        Route(
            prefix="+123456789012345",
            sender="A" * 16,
            queue="express",
            providers=NAMES,
            weights=(0, 1, 1_000_000),
        ),
        Route(sender="Acme", providers=("a",)),
        Route(queue="normal", providers=("a",), reroute=True),
    ]
    assert first_wrong(right, NAMES) is None
    assert first_wrong([], ()) is None


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"prefix": "49"}, "prefix"),
        ({"prefix": "+"}, "prefix"),
        ({"prefix": "+1234567890123456"}, "prefix"),
        ({"prefix": "+49\n"}, "prefix"),
        ({"prefix": "+\u0661"}, "prefix"),
        ({"sender": "A" * 17}, "sender"),
        ({"sender": " Acme"}, "sender"),
        ({"sender": "A\0"}, "sender"),
        ({"providers": ()}, "providers"),
        ({"providers": ("a", "x")}, "providers"),
        ({"providers": ("a", "a")}, "providers"),
        ({"weights": (1,)}, "weights"),
        ({"weights": (1, 2, 3)}, "weights"),
        ({"weights": (0, 0)}, "weights"),
        ({"weights": (-1, 2)}, "weights"),
        ({"weights": (1, 1_000_001)}, "weights"),
        ({"weights": (1, 10**40)}, "weights"),
    ],
)
def test_what_is_wrong_is_named_by_its_number_and_field(changes: dict[str, Any], field: str) -> None:
    good = Route(prefix="+98", providers=("a",))
    wrong = first_wrong([good, Route(**{"providers": ("a", "b")} | changes)], NAMES)
    assert wrong is not None
    assert wrong[0] == f"routes.1.{field}"
    assert wrong[1]


def test_two_routes_for_the_same_and_too_many_routes_are_wrong() -> None:
    same = [
        Route(prefix="+98", providers=("a",)),
        Route(providers=("a",)),
        Route(prefix="+98", providers=("b",)),
    ]
    assert (first_wrong(same, NAMES) or ("",))[0] == "routes.2"
    many = [Route(prefix=f"+{n}", providers=("a",)) for n in range(10_001)]
    assert (first_wrong(many, NAMES) or ("",))[0] == "routes"
    assert "there are none" in (first_wrong([Route(providers=("a",))], ()) or ("", ""))[1]
