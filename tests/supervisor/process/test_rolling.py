"""Another configuration, on the model of the supervisor: what is replaced when, and what never is."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import Role
from supervisor.process import reconcile as rule
from supervisor.process import rolling
from supervisor.process.child_state import ChildState, Event, Slot
from supervisor.process.rolling import ROLLED
from tests.supervisor.process.test_reconcile import ALL, OPERATIONS, World, _apply

SETTLED = rule.Settle()


def ready_of(world: World, role: Role) -> list[Slot]:
    return [s for s in world.living(role) if s.state == ChildState.READY]


def generations(world: World) -> dict[Role, set[int]]:
    return {role: {s.generation for s in world.living(role)} for role in ALL}


def live(world: World, seconds: float = 60.0) -> Iterator[None]:
    """Every process becomes ready and drains as it is told, one thing at a time."""
    until = world.now + seconds
    while world.now < until:
        world.tick(0.1)
        yield
        for key in sorted(world.alive.values()):
            state = world.seen.slots[key].state
            if state == ChildState.STARTING:
                world.say(key, "ready")
                break
            if state != ChildState.READY:
                world.end(key, 0 if state == ChildState.DRAINING else -9)
                break
        world.beat_all()
        if world.seen.fencing.running is not None:
            world.end_fence(0)


def reload(world: World, generation: int = 1) -> None:
    rolling.begin(world.seen.rolling, generation)


def test_workers_then_api_are_replaced_one_after_another_and_the_others_stay() -> None:
    wanted: dict[Role, int] = {**ALL, "express": 2, "ingest": 2}
    world = World(wanted)
    world.boot()
    stay = {role: [s.name for s in world.living(role)] for role in ("ledger", "archiver")}
    reload(world)
    for _ in live(world):
        for role in ROLLED:
            assert len(ready_of(world, role)) >= wanted[role], "never fewer ready than wanted"
            assert len(world.living(role)) <= wanted[role] + 1
    drained = [key for key, event in world.sent if event == Event.DRAIN]
    assert drained == [
        ("express", 1), ("express", 2), ("express", 3), ("normal", 1), ("normal", 2),
        ("notifier", 1), ("notifier", 2), ("ingest", 1), ("ingest", 2), ("ingest", 3),
        ("admin", 1), ("admin", 2),
    ]  # fmt: skip
    assert {s.generation for role in ROLLED for s in world.living(role)} == {1}
    assert {role: [s.name for s in world.living(role)] for role in ("ledger", "archiver")} == stay
    assert {role: len(world.living(role)) for role in wanted} == wanted
    assert world.to_be_fenced == set(), "who drains needs no fence"
    assert world.settled == [1]


def test_nothing_old_is_drained_before_the_first_new_one_is_ready() -> None:
    world = World({"express": 1})
    world.boot()
    reload(world)
    assert world.tick(0.1) == [rule.Spawn("express", 2)]
    assert world.tick(0.1) == []
    world.say(("express", 2), "ready")
    assert world.tick(0.1) == [rule.Send(("express", 1), Event.DRAIN, "replaced")]
    assert world.tick(0.1) == []
    world.end(("express", 1), 0)
    assert world.tick(0.1) == [rule.Spawn("express", 1)]
    assert world.tick(0.1) == [], "the extra one stays until its successor is ready"
    world.say(("express", 1), "ready")
    assert world.tick(0.1) == [rule.Send(("express", 2), Event.DRAIN, "no longer wanted")]
    world.end(("express", 2), 0)
    assert world.tick(0.1) == [rule.Forget(("express", 2))]
    assert world.tick(0.1) == [SETTLED]
    assert world.tick(0.1) == []


@pytest.mark.parametrize("how", ["cannot boot", "dies", "hangs"])
def test_a_configuration_that_does_not_boot_is_given_up_and_nobody_was_drained(how: str) -> None:
    world = World({"express": 2, "normal": 1})
    world.boot()
    before = dict(world.alive)
    reload(world)
    world.tick(0.1)
    while not world.gone_back:
        if ("express", 3) in world.alive.values() and world.seen.slots[
            "express", 3
        ].state != ChildState.WAITING:
            if how == "cannot boot":
                world.say(("express", 3), "failed providers.x.password_file cannot be read.")
                world.end(("express", 3), 3)
            elif how == "dies":
                world.end(("express", 3), 1)
            elif world.seen.slots["express", 3].state in (ChildState.ABORTED, ChildState.KILLED):
                world.end(("express", 3), -6)
        world.beat_all()
        world.tick(1.0)
        assert world.now < 5000
    why = {"cannot boot": "password_file", "dies": "ended 8 times", "hangs": "not ready after 60 s"}
    assert why[how] in world.gone_back[0]
    for _ in live(world):
        pass
    assert world.alive == before
    assert not [key for key, event in world.sent if event == Event.DRAIN]
    assert world.settled == [0]


def test_what_was_replaced_already_goes_back_too() -> None:
    world = World({"express": 2, "normal": 1, "ingest": 1})
    world.boot()
    reload(world)
    for _ in live(world):
        if ("normal", 2) in world.alive.values():
            world.say(("normal", 2), "failed It does not work.")
            world.end(("normal", 2), 3)
            break
    assert generations(world)["express"] == {1}
    for _ in live(world):
        assert len(ready_of(world, "express")) >= 2
    assert generations(world) == {
        "ledger": set(),
        "archiver": set(),
        "notifier": set(),
        "express": {0},
        "normal": {0},
        "ingest": {0},
        "admin": set(),
        "node": set(),
    }
    assert (world.gone_back, world.settled) == (["It does not work."], [0])
    # A later configuration does not take up the generation that was given up.
    reload(world, 2)
    for _ in live(world):
        pass
    assert generations(world)["normal"] == {2}


def test_a_second_reload_overtakes_the_first_and_still_falls_back_to_what_worked() -> None:
    world = World({"express": 2})
    world.boot()
    reload(world, 1)
    for _ in live(world, 0.5):
        pass
    reload(world, 2)
    assert world.seen.rolling.fallback == 0
    for _ in live(world):
        pass
    assert generations(world)["express"] == {2}
    assert world.settled == [2]


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3), (2, 0), (0, 2), (1, 2), (2, 1)])
def test_the_numbers_may_change_with_it(before: int, after: int) -> None:
    world = World({"express": before, "normal": 1})
    world.boot()
    reload(world)
    world.seen.wanted["express"] = after
    for _ in live(world):
        assert len(ready_of(world, "express")) >= min(before, after)
    assert {key for key in world.seen.slots if key[0] == "express"} == {
        ("express", n + 1) for n in range(after)
    }
    assert {s.generation for s in world.living("express") + world.living("normal")} == {1}
    assert world.settled == [1]


def test_stopping_in_the_middle_drains_the_extra_process_as_well() -> None:
    world = World(ALL)
    world.boot()
    reload(world)
    world.tick(0.1)
    world.seen.stopping = rule.Stopping()
    for _ in live(world):
        pass
    assert world.finished == 0
    assert world.alive == {}


RELOADS = st.tuples(st.just("reload"), st.integers(0, 5))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(OPERATIONS, OPERATIONS, RELOADS), max_size=60))
def test_whatever_happens_meanwhile_it_ends_with_one_configuration(
    operations: list[tuple[object, ...]],
) -> None:
    world = World(ALL)
    world.boot()
    generation = 0
    for operation in operations:
        if operation[0] == "reload":
            generation += 1
            reload(world, generation)
            world.tick()
        else:
            _apply(world, operation)
        for role in ALL:
            staying = [s for s in world.living(role) if s.state in (ChildState.STARTING, ChildState.READY)]
            assert len(staying) <= world.seen.wanted.get(role, 0) + (role in ROLLED and generation > 0)
    for _ in live(world, 120):
        pass
    wanted = {(role, i) for role, count in world.seen.wanted.items() for i in range(1, count + 1)}
    assert {k for k, s in world.seen.slots.items() if s.state == ChildState.READY} == wanted
    assert set(world.seen.slots) == wanted
    assert {s.generation for s in world.seen.slots.values() if s.role in ROLLED} <= {
        world.seen.rolling.generation
    }
    assert not world.seen.rolling.under_way
    assert set(world.fenced) == world.to_be_fenced


@pytest.mark.parametrize("role", ALL)
def test_a_process_that_has_outgrown_its_memory_is_replaced_in_its_turn(role: Role) -> None:
    wanted: dict[Role, int] = {**ALL, role: 2}
    world = World(wanted)
    world.boot()
    names = {s.key: s.name for s in world.seen.slots.values()}
    world.seen.slots[role, 1] = msgspec.structs.replace(world.seen.slots[role, 1], outgrown=True)
    for _ in live(world):
        assert len(ready_of(world, role)) >= 2, "never fewer ready than wanted"
    changed = {s.key for s in world.seen.slots.values() if s.name != names.get(s.key)}
    assert changed == {(role, 1)}
    assert not any(s.outgrown for s in world.seen.slots.values())
