"""What a reload changed is told by the names of the settings, and no secret with it."""

from __future__ import annotations

from engine import config
from supervisor.process.own_changes import note_levels, note_reload
from supervisor.process.reconcile import Fencing, Observed

_FILE = """
[[providers]]
name = "a"
type = "smpp"
host = "127.0.0.1"
system_id = "engine"
password = "{password}"
throughput = {throughput}
[queues.express]
concurrency = 20
[logs]
level = "{level}"
[prices]
"" = {throughput}
"""


def observed() -> Observed:
    return Observed(fencing=Fencing(since=0.0), started_at=0.0)


def test_numbers_are_told_of_a_provider_and_of_its_texts_only_that_they_differ() -> None:
    files = [("old", 50, "info"), ("new", 80, "debug")]
    configs = {
        generation: config.decode(_FILE.format(password=p, throughput=t, level=level), "x")
        for generation, (p, t, level) in enumerate(files)
    }
    seen = observed()
    seen.rolling.fallback, seen.rolling.generation = 0, 1
    note_reload(seen, configs, "")
    (change,) = seen.changes
    hidden = {"providers.a.password": "(not shown)"}
    assert change.before == hidden | {"providers.a.throughput": 50.0, "logs.level": "info"}
    assert change.after == hidden | {"providers.a.throughput": 80.0, "logs.level": "debug"}


def test_signals_that_are_no_levels_are_no_change() -> None:
    seen = observed()
    note_levels(seen, [1, 15])
    assert seen.changes == []


def test_the_last_ones_are_kept_and_numbers_go_on() -> None:
    seen = observed()
    for _ in range(120):
        note_reload(seen, {}, "wrong")
    assert [change.number for change in seen.changes] == list(range(71, 121))
