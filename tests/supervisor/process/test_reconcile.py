"""The supervisor's rule against a model of the system: processes, names, time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import DRAIN_ORDER, ROLES, Role
from engine.supervision import DRAIN_SIGNAL
from supervisor.process import child_state, rolling
from supervisor.process import reconcile as rule
from supervisor.process.child_state import TABLE, ChildState, Event, Limits, Slot, backoff_s

LIMITS = Limits()


class World:
    """Performs actions as the keeper does, on processes that exist only here."""

    def __init__(self, wanted: dict[Role, int], limits: Limits = LIMITS) -> None:
        self.now = 1000.0
        self.limits = limits
        self.seen = rule.Observed(
            wanted=dict(wanted), fencing=rule.Fencing(since=self.now), started_at=self.now
        )
        self.born = 0
        self.alive: dict[str, child_state.Key] = {}
        self.fenced: list[str] = []
        self.to_be_fenced: set[str] = set()
        self.announced = 0
        self.finished: int | None = None
        self.given_up = ""
        # Generations that settled, and why others were given up.
        self.settled: list[int] = []
        self.gone_back: list[str] = []
        self.sent: list[tuple[child_state.Key, Event]] = []

    def tick(self, seconds: float = 0.0) -> list[rule.Action]:
        self.now += seconds
        actions = rule.reconcile(self.seen, self.now, self.limits)
        for action in actions:
            self._perform(action)
        return actions

    def _perform(self, action: rule.Action) -> None:
        match action:
            case rule.Spawn(role, index):
                key = (role, index)
                slot = self.seen.slots.get(key) or Slot(role=role, index=index, since=self.now)
                self.born += 1
                name = f"n.{role}.{self.born}"
                self.alive[name] = key
                self.seen.slots[key] = child_state.spawned(
                    slot, name, self.born, self.now, self.seen.rolling.generation
                )
            case rule.Send(key, event, _):
                self.sent.append((key, event))
                self.seen.slots[key] = child_state.moved(self.seen.slots[key], event, self.now)
            case rule.Forget(key):
                assert not self.seen.slots.pop(key).alive
            case rule.Fence(names):
                assert self.seen.fencing.running is None, "one fencing process at a time"
                self.seen.fencing.running, self.seen.fencing.since = names, self.now
            case rule.KillFence():
                self.seen.fencing.killed = True
            case rule.Announce():
                self.announced += 1
                self.seen.announced = True
            case rule.Settle():
                rolling.settle(self.seen.rolling)
                self.settled.append(self.seen.rolling.generation)
            case rule.GoBack(sentence):
                rolling.go_back(self.seen.rolling)
                self.gone_back.append(sentence)
            case rule.GiveUp(sentence):
                self.given_up = sentence
                self.seen.stopping = rule.Stopping(sentence=sentence)
            case rule.Finish(code):
                assert not self.alive
                self.finished = code

    def say(self, key: child_state.Key, line: str) -> None:
        self.seen.slots[key] = child_state.noted_line(self.seen.slots[key], line, self.now)

    def end(self, key: child_state.Key, code: int) -> str:
        before = self.seen.slots[key]
        del self.alive[before.name]
        self.seen.slots[key] = child_state.ended(before, code, self.now, self.limits)
        if code != 0:
            self.seen.fencing.names += (before.name,)
            self.to_be_fenced.add(before.name)
        if self.seen.stopping and not child_state.left_cleanly(before, code):
            self.seen.stopping.unclean = True
        return before.name

    def end_fence(self, code: int = 0, sentence: str = "") -> None:
        names = self.seen.fencing.running
        assert names is not None
        rule.noted_fence_end(self.seen.fencing, code, sentence, self.now, self.limits)
        if code == 0:
            self.fenced += names

    def boot(self) -> None:
        self.tick()
        self.end_fence()
        self.tick()
        for key in list(self.seen.slots):
            self.say(key, "ready")
        self.tick()

    def beat_all(self) -> None:
        for key, slot in self.seen.slots.items():
            if slot.state == ChildState.READY:
                self.say(key, "beat")

    def living(self, role: Role) -> list[Slot]:
        return [s for s in self.seen.slots.values() if s.role == role and s.alive]


ALL: dict[Role, int] = dict.fromkeys(ROLES, 1)


def test_leftovers_are_fenced_before_the_first_process_starts() -> None:
    world = World(ALL)
    assert world.tick() == [rule.Fence(())]
    assert world.tick(0.1) == []
    world.end_fence()
    assert [a.role for a in world.tick() if isinstance(a, rule.Spawn)] == list(ROLES)


def test_leftovers_that_cannot_be_fenced_in_time_end_the_start_with_a_sentence() -> None:
    world = World(ALL)
    while not world.given_up:
        assert world.now < 1000 + LIMITS.leftovers_s + 1
        if any(isinstance(a, rule.Fence) for a in world.tick(0.05)):
            world.end_fence(1, "Redis does not answer.")
    assert world.given_up.endswith("Redis does not answer.")
    assert world.born == 0
    world.tick()
    assert world.finished == 1


def test_a_wrong_setting_found_while_fencing_leftovers_ends_the_start_at_once() -> None:
    world = World(ALL)
    world.tick()
    world.end_fence(3, "redis.url must be redis://HOST:PORT.")
    world.tick()
    assert world.given_up == "redis.url must be redis://HOST:PORT."


def test_ready_is_announced_once_when_all_are_ready_at_the_same_time() -> None:
    world = World(ALL)
    world.tick()
    world.end_fence()
    world.tick()
    for role in ROLES[:-1]:
        world.say((role, 1), "ready")
    world.tick()
    assert world.announced == 0
    world.say((ROLES[-1], 1), "ready")
    world.tick()
    world.tick()
    assert world.announced == 1


def test_a_dead_process_is_replaced_and_fenced_and_nothing_else_happens() -> None:
    world = World(ALL)
    world.boot()
    name = world.end(("express", 1), -9)
    # The fence does not hold up the process that takes its place.
    assert world.tick() == [rule.Spawn("express", 1)]
    assert world.tick(0.2) == []
    world.say(("express", 1), "ready")
    assert world.tick() == [rule.Fence((name,))]
    assert world.seen.slots["express", 1].restarts == 1
    assert world.seen.slots["express", 1].name != name


def test_only_one_that_takes_the_place_of_a_dead_one_is_a_restart() -> None:
    limits = child_state.Limits()
    first = child_state.spawned(child_state.Slot(role="express", index=1, since=0.0), "a", 1, 0.0)
    ready = child_state.noted_line(first, "ready", 1.0)
    drained = child_state.ended(child_state.moved(ready, child_state.Event.DRAIN, 2.0), 0, 2.0, limits)
    reloaded = child_state.noted_line(child_state.spawned(drained, "b", 2, 2.0, generation=1), "ready", 3.0)
    assert reloaded.restarts == 0
    died = child_state.ended(reloaded, -9, 4.0, limits)
    assert child_state.spawned(died, "c", 3, 5.0, generation=1).restarts == 1
    # A reload begins to count deaths in a row anew, and not the restarts.
    assert child_state.spawned(died, "c", 3, 5.0, generation=2).restarts == 1


def test_a_fence_does_not_wait_for_long_for_a_process_that_is_not_ready() -> None:
    world = World(ALL)
    world.boot()
    name = world.end(("express", 1), -9)
    world.tick()
    assert world.tick(LIMITS.fence_after_s) == [rule.Fence((name,))]


def test_a_process_that_left_of_itself_is_replaced_without_a_fence() -> None:
    world = World(ALL)
    world.boot()
    world.end(("express", 1), 0)
    assert world.tick(0.1) == [rule.Spawn("express", 1)]


def test_a_fence_that_failed_is_repeated_with_back_off_and_with_all_names() -> None:
    world = World(ALL | {"express": 2})
    world.boot()
    first = world.end(("express", 1), -9)
    world.tick()
    world.tick(LIMITS.fence_after_s)
    second = world.end(("express", 2), -9)
    world.end_fence(1)
    assert not [a for a in world.tick() if isinstance(a, rule.Fence)]
    world.say(("express", 2), "ready")
    assert rule.Fence((first, second)) in world.tick(0.1)
    world.end_fence(1)
    assert not [a for a in world.tick(0.1) if isinstance(a, rule.Fence)]
    assert rule.Fence((first, second)) in world.tick(0.1)
    world.end_fence(0)
    assert world.seen.fencing.names == ()


def test_a_name_that_dies_while_others_are_fenced_is_fenced_next() -> None:
    world = World(ALL | {"express": 2})
    world.boot()
    world.end(("express", 1), -9)
    world.tick()
    world.tick(LIMITS.fence_after_s)
    second = world.end(("express", 2), -9)
    world.end_fence(0)
    world.tick()
    world.say(("express", 2), "ready")
    assert world.tick()[0] == rule.Fence((second,))


def test_a_fencing_process_that_hangs_is_killed_once() -> None:
    world = World(ALL)
    world.boot()
    world.end(("express", 1), -9)
    world.tick()
    world.tick(LIMITS.fence_after_s)
    assert rule.KillFence() in world.tick(LIMITS.fence_s)
    assert rule.KillFence() not in world.tick(1)


def test_backoff_doubles_from_a_tenth_of_a_second_to_ten() -> None:
    pauses = [backoff_s(deaths, LIMITS) for deaths in range(1, 10)]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0])
    assert backoff_s(10_000, LIMITS) == 10.0


def test_backoff_grows_with_each_death_and_starts_anew_after_a_long_life() -> None:
    world = World(ALL)
    world.boot()
    key: child_state.Key = ("normal", 1)
    # None after the first deaths of processes that were ready.
    for pause in (0.0, 0.0, 0.4):
        world.end(key, 1)
        assert world.seen.slots[key].retry_at - world.now == pytest.approx(pause)
        world.tick(pause + 1e-6)
        world.say(key, "ready")
    world.now += LIMITS.lived_s + 1
    world.end(key, 1)
    assert world.seen.slots[key].retry_at == world.now


def test_silence_after_ready_is_answered_with_abort_then_kill_then_a_new_process() -> None:
    world = World({"ingest": 2})
    world.boot()
    world.now += LIMITS.beat_s
    world.say(("ingest", 2), "beat")
    world.tick()
    assert world.sent == [(("ingest", 1), Event.ABORT)]
    world.tick(LIMITS.abort_s - 0.1)
    assert len(world.sent) == 1
    world.tick(0.1)
    assert world.sent[1] == (("ingest", 1), Event.KILL)
    name = world.end(("ingest", 1), -9)
    assert world.tick() == [rule.Fence((name,))]
    assert rule.Spawn("ingest", 1) in world.tick(0.1), "a hung one counts as a failure"


def test_never_ready_is_as_bad_as_silent() -> None:
    world = World({"ingest": 1})
    world.tick()
    world.end_fence()
    world.tick()
    for _ in range(int(LIMITS.ready_s) - 1):
        world.tick(1)
        world.say(("ingest", 1), "beat")
    assert world.sent == []
    world.tick(1)
    assert world.sent == [(("ingest", 1), Event.ABORT)]


def test_time_in_which_the_supervisor_was_held_up_is_not_held_against_a_child() -> None:
    world = World({"ingest": 1})
    world.boot()
    key: child_state.Key = ("ingest", 1)
    world.now += 3600
    world.seen.slots[key] = child_state.later(world.seen.slots[key], 3600)
    world.tick()
    assert world.sent == []
    world.tick(LIMITS.beat_s)
    assert world.sent == [(key, Event.ABORT)]


@pytest.mark.parametrize("state", [s for s in ChildState if s != ChildState.WAITING])
def test_a_process_is_overdue_when_the_supervisor_should_have_ended_it_long_ago(state: ChildState) -> None:
    limits = Limits(ready_s=60, beat_s=10, drain_s=30, abort_s=2, kill_s=5)
    slot = Slot(role="express", index=1, state=state, since=100.0, beat_at=100.0)
    allowed_s = {
        ChildState.STARTING: 60,
        ChildState.READY: 10,
        ChildState.DRAINING: 30,
        ChildState.ABORTED: 2,
        ChildState.KILLED: 0,
    }
    due_at = 100.0 + allowed_s[state] + limits.kill_s
    assert not child_state.overdue(slot, due_at - 0.1, limits)
    assert child_state.overdue(slot, due_at, limits)


def test_a_process_says_which_routes_it_has_and_the_next_one_begins_without() -> None:
    slot = child_state.spawned(Slot(role="express", index=1, since=0.0), "first", 7, 1.0)
    assert slot.routing is None
    slot = child_state.noted_line(slot, "routing 12", 2.0)
    assert slot.routing == 12
    assert child_state.noted_line(slot, "routing now", 3.0) == slot
    slot = child_state.ended(slot, 0, 4.0, Limits())
    assert child_state.spawned(slot, "second", 8, 5.0).routing is None


def test_who_cannot_boot_before_all_were_ready_ends_the_start_with_its_sentence() -> None:
    world = World(ALL)
    world.tick()
    world.end_fence()
    world.tick()
    world.say(("ledger", 1), "failed postgres.url must name a database.")
    world.end(("ledger", 1), 3)
    world.tick()
    assert world.given_up == "postgres.url must name a database."
    for role in DRAIN_ORDER[:3]:
        world.tick()
        world.end((role, 1), -DRAIN_SIGNAL)
    for role in DRAIN_ORDER[4:]:
        world.tick()
        world.end((role, 1), -DRAIN_SIGNAL)
    world.end_fence()
    world.tick()
    world.end_fence()
    world.tick()
    assert world.finished == 1
    assert set(world.fenced) == world.to_be_fenced


def test_who_cannot_boot_but_once_was_ready_is_retried() -> None:
    world = World(ALL)
    world.boot()
    for pause in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10):
        world.end(("ledger", 1), 3)
        world.beat_all()
        world.tick(pause)
        assert world.seen.slots["ledger", 1].state == ChildState.STARTING
    assert world.given_up == ""


def test_dying_again_and_again_before_ready_ends_the_start() -> None:
    world = World({"ledger": 1})
    world.tick()
    world.end_fence()
    for _ in range(LIMITS.boot_deaths_max):
        world.tick(11)
        assert world.given_up == ""
        world.end(("ledger", 1), 1)
    world.tick()
    assert "ledger 1 ended 8 times before it was ready" in world.given_up


def test_stopping_drains_role_by_role_and_starts_nothing() -> None:
    world = World(ALL | {"express": 2})
    world.boot()
    world.end(("normal", 1), -9)
    world.seen.stopping = rule.Stopping()
    drained: list[Role] = []
    for _ in range(len(DRAIN_ORDER)):
        world.beat_all()
        world.tick(1)
        leaving = [s for s in world.seen.slots.values() if s.state == ChildState.DRAINING]
        assert len({s.role for s in leaving}) == 1
        drained.append(leaving[0].role)
        for slot in leaving:
            world.end(slot.key, 0)
        if drained[-1] == DRAIN_ORDER[-1]:
            break
    assert drained == [role for role in DRAIN_ORDER if role != "normal"]
    world.end_fence()
    assert world.tick() == [rule.Finish(0)]
    assert len(world.sent) == 8


def test_a_process_that_does_not_drain_is_killed_and_the_exit_code_says_so() -> None:
    world = World({"ingest": 1, "ledger": 1})
    world.boot()
    world.seen.stopping = rule.Stopping()
    world.tick()
    world.now += LIMITS.drain_s
    world.beat_all()
    world.tick()
    assert world.sent[-1] == (("ingest", 1), Event.KILL)
    world.end(("ingest", 1), -9)
    world.beat_all()
    world.tick()
    world.end(("ledger", 1), 0)
    world.end_fence()
    world.tick()
    assert world.finished == 1


def test_stopping_does_not_wait_for_a_store_that_cannot_be_reached() -> None:
    world = World({"ingest": 1})
    world.boot()
    world.end(("ingest", 1), -9)
    world.seen.stopping = rule.Stopping()
    world.tick()
    assert world.finished is None
    world.tick(LIMITS.fence_s)
    assert world.finished == 0


def test_the_second_signal_kills_all_at_once() -> None:
    world = World(ALL)
    world.boot()
    world.seen.stopping = rule.Stopping()
    world.tick()
    world.seen.stopping.at_once = True
    world.tick()
    assert {key for key, event in world.sent if event == Event.KILL} == set(world.seen.slots)
    assert world.tick() == []
    for key in list(world.seen.slots):
        world.end(key, -9)
    world.tick()
    assert world.finished == 1


def test_what_is_too_many_is_drained_the_last_added_first() -> None:
    world = World({"express": 4})
    world.boot()
    world.seen.wanted["express"] = 2
    world.tick()
    assert world.sent == [(("express", 4), Event.DRAIN), (("express", 3), Event.DRAIN)]
    # Wanted again while it still drains: its successor waits for it to go.
    world.seen.wanted["express"] = 4
    assert world.tick() == []
    world.end(("express", 4), 0)
    assert world.tick() == [rule.Spawn("express", 4)]


def test_a_dead_server_is_restarted_with_back_off() -> None:
    world = World({})
    world.boot()
    server = rule.Server(name="valkey", up_at=world.now)
    world.seen.servers["valkey"] = server
    assert world.tick() == []
    rule.noted_server_down(server, world.now, LIMITS)
    assert world.tick() == []
    assert world.tick(0.1) == [rule.Restart("valkey")]
    rule.noted_server_down(server, world.now, LIMITS)
    assert world.tick(0.1) == []
    assert world.tick(0.1) == [rule.Restart("valkey")]


def test_every_event_the_rule_can_ask_for_has_its_row_in_the_table() -> None:
    live = [s for s in ChildState if s != ChildState.WAITING]
    assert all((state, Event.END) in TABLE and (state, Event.READY) in TABLE for state in live)
    for state in ChildState:
        slot = Slot(role="ingest", index=1, state=state, since=0.0)
        for leaving in (False, True):
            action = rule._for_slot(slot, leaving, 1e9, LIMITS)
            if isinstance(action, rule.Send):
                assert (state, action.event) in TABLE


OPERATIONS = st.one_of(
    st.tuples(st.just("pass"), st.floats(0.01, 40)),
    st.tuples(st.just("ready"), st.integers(0, 20)),
    st.tuples(st.just("failed"), st.integers(0, 20)),
    st.tuples(st.just("die"), st.integers(0, 20), st.sampled_from([0, 1, 3, -9, -6, -DRAIN_SIGNAL, -15])),
    st.tuples(st.just("wanted"), st.sampled_from(ROLES), st.integers(0, 4)),
    st.tuples(st.just("fence"), st.sampled_from([0, 1])),
)


def _apply(world: World, operation: tuple[object, ...]) -> None:
    alive = sorted(world.alive.values())
    match operation:
        case ("pass", float(seconds)):
            world.tick(seconds)
        case ("ready", int(n)) if alive:
            world.say(alive[n % len(alive)], "ready")
        case ("failed", int(n)) if alive:
            world.say(alive[n % len(alive)], "failed It does not work.")
        case ("die", int(n), int(code)) if alive:
            world.end(alive[n % len(alive)], code)
        case ("wanted", role, int(count)):
            world.seen.wanted[role] = count  # type: ignore[index]
        case ("fence", int(code)) if world.seen.fencing.running is not None:
            world.end_fence(code)
    world.tick()


def _never_too_many(world: World) -> None:
    assert sorted(world.alive.values()) == sorted(s.key for s in world.seen.slots.values() if s.alive)
    for role in ROLES:
        on_their_way_out = (ChildState.DRAINING, ChildState.ABORTED, ChildState.KILLED)
        staying = [s for s in world.living(role) if s.state not in on_their_way_out]
        assert len(staying) <= world.seen.wanted.get(role, 0)


def _behave(world: World, seconds: float) -> None:
    """From now on every process becomes ready, beats, and ends when it is told to."""
    until = world.now + seconds
    while world.now < until and world.finished is None:
        world.tick(0.5)
        for key in list(world.alive.values()):
            state = world.seen.slots[key].state
            if state in (ChildState.STARTING, ChildState.READY):
                world.say(key, "ready")
            else:
                world.end(key, 0 if state == ChildState.DRAINING else -9)
        if world.seen.fencing.running is not None:
            world.end_fence(0)


@settings(max_examples=150, deadline=None)
@given(st.lists(OPERATIONS, max_size=60))
def test_whatever_happened_it_converges_and_never_has_too_many(operations: list[tuple[object, ...]]) -> None:
    world = World(ALL)
    world.boot()
    for operation in operations:
        _apply(world, operation)
        _never_too_many(world)
    _behave(world, 60)
    wanted = {(role, i) for role, count in world.seen.wanted.items() for i in range(1, count + 1)}
    assert {k for k, s in world.seen.slots.items() if s.state == ChildState.READY} == wanted
    assert set(world.seen.slots) == wanted
    assert set(world.fenced) == world.to_be_fenced, "every unclean death is fenced, and nobody else"
    assert world.tick(0.4) == []


@settings(max_examples=150, deadline=None)
@given(st.lists(OPERATIONS, max_size=40), st.lists(OPERATIONS, max_size=10))
def test_whatever_happened_stopping_ends_and_leaves_nothing(
    before: list[tuple[object, ...]], during: list[tuple[object, ...]]
) -> None:
    world = World(ALL)
    world.tick()
    for operation in before:
        _apply(world, operation)
    world.seen.stopping = world.seen.stopping or rule.Stopping()
    born = world.born
    for operation in during:
        if world.finished is None:
            _apply(world, operation)
    _behave(world, 300)
    assert world.finished in (0, 1)
    assert world.alive == {}
    assert world.born == born, "nothing is started while stopping"


def test_records_are_frozen_so_that_only_the_keeper_moves_a_slot() -> None:
    with pytest.raises(AttributeError):
        Slot(role="ingest", index=1, since=0.0).state = ChildState.READY  # type: ignore[misc]
