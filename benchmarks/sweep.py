"""Which shape of a queue does what: p99 and throughput over processes × concurrency, against a target.

    python -m benchmarks.sweep [--processes 1,2,3] [--concurrency 8,32,128] [--queue normal] [--rate 500]
        [--response-times "p50=80ms,p90=150ms,p99=900ms"] [--target "normal p99 <= 2s"] [--name sweep]

Takes half a minute for each shape, five minutes as it stands. One engine has one shape after another, by
`smsengine queue scale`, and the simulated provider answers as slowly as `--response-times` says. Each is
measured twice: an open load at `--rate` for `--seconds`, with the latency from the instant a message was due
to the provider's acceptance, which is cut short when the shape cannot carry the load; and a backlog that is
accepted while the provider is paused, and then sent as fast as the shape can. Predicted is the
same by the model of `smsengine plan`.

A line for each shape goes to benchmarks/results/NAME.jsonl, as soon as it is measured: a sweep that was
interrupted goes on where it was, when it is run again with the same arguments. At the end,
docs/reports/NAME.md and .svg show heat maps; `--report` says where else.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop

from benchmarks.arguments import count_from_1, folder, more_than_0, parser_of, several, times
from benchmarks.heat_map import HeatMap, svg
from benchmarks.isolation_load import BATCH, fill
from benchmarks.open_load import OpenLoad
from benchmarks.plan_scenarios import zipf
from benchmarks.results import REPORTS, Machine, machine, note, read
from benchmarks.running import Engine, engine, settled
from benchmarks.shaped import (
    archived,
    behave,
    behaviour_of,
    configuration,
    costs_from,
    latencies_ms,
    milliseconds,
    quantile_name,
    reshape,
    warm,
)
from benchmarks.typical_load import PARTS
from engine.capacity import durations, response_times, targets
from engine.capacity.costs import CALIBRATION
from engine.capacity.plan import Bounds, Planner
from engine.capacity.simulation import Arrivals, Shape, System
from engine.config import Queues
from engine.records import QUEUES, Queue
from supervisor.datadir import DEFAULT
from supervisor.simulator.behaviour import Behaviour

# Most processes, and sends in flight in each.
_SHAPE_MAX = 10_000
_ORGANISATIONS, _UNITS = 20, 100_000_000
# The backlog is what is sent in so long by the formula, seconds, from the first number of messages to the
# second.
_BACKLOG_S, _BACKLOG_MIN, _BACKLOG_MAX = 6.0, 2_000, 60_000
_BACKLOG_WAIT_S = 60.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What all shapes of one sweep have in common."""

    queue: Queue
    rate: float
    response_times: str
    target: str
    seconds: float


class Swept(msgspec.Struct, frozen=True, kw_only=True):
    """One shape: milliseconds by quantile, messages a second."""

    settings: Settings
    processes: int
    concurrency: int
    messages: int
    predicted_ms: dict[str, float]
    measured_ms: dict[str, float]
    throughput_per_s: float
    meets: bool
    trouble: dict[str, int]


class _Line(Swept, frozen=True, kw_only=True):
    machine: Machine


class _Running(NamedTuple):
    """The engine under measurement, where it runs, and the keys of its organisations."""

    target: Engine | None = None
    place: Path = Path()
    keys: Sequence[str] = ()


def sweep(name: str, settings: Settings, shapes: Sequence[Shape], costs_file: Path) -> list[Swept]:
    """Measure all shapes that are not in the results of `name` yet, and give those of all."""
    known = {(line.processes, line.concurrency): line for line in _known(name, settings)}
    times, costs = response_times.parse(settings.response_times), costs_from(costs_file)
    system = System(
        peaks=zipf(settings.queue, settings.rate, _ORGANISATIONS),
        answers=dict.fromkeys(QUEUES, times),
        costs=costs,
        backoff_s={queue: Queues().of(queue).backoff_s for queue in QUEUES},
    )
    left = [shape for shape in shapes if (shape.processes, shape.concurrency) not in known]
    with _started(system, settings, left) as running:
        began_s = time.monotonic()
        for done, shape in enumerate(left):
            spent_s = time.monotonic() - began_s
            rest = f", {spent_s / done * (len(left) - done):.0f} s left" if done else ""
            number = len(shapes) - len(left) + done + 1
            print(f"{number} of {len(shapes)}: {shape.processes} × {shape.concurrency}{rest}", flush=True)
            found = _measure(running, system, settings, shape)
            note(name, found)
            known[shape.processes, shape.concurrency] = found
            p99_ms, per_s = found.measured_ms["p99"], found.throughput_per_s
            print(f"  p99 {p99_ms:.0f} ms, {per_s:.0f} messages/s {found.trouble or ''}", flush=True)
    return [known[shape.processes, shape.concurrency] for shape in shapes]


def _known(name: str, settings: Settings) -> list[Swept]:
    """What was noted with these settings on this machine, at this commit."""
    found = [msgspec.convert(line, _Line) for line in read(name)]
    return [line for line in found if line.settings == settings and line.machine == machine()]


@contextlib.contextmanager
def _started(system: System, settings: Settings, shapes: Sequence[Shape]) -> Iterator[_Running]:
    """An engine with the first of `shapes`, warm."""
    if not shapes:
        yield _Running()
        return
    with (
        tempfile.TemporaryDirectory(prefix="smsengine-sweep-") as place,
        engine(configuration({settings.queue: shapes[0]}), place=Path(place)) as target,
    ):
        keys = target.organisations(_ORGANISATIONS, _UNITS)
        load = OpenLoad(target.url, keys, [settings.queue] * len(keys))
        warm(target, load, system)
        yield _Running(target, Path(place), keys)


def _measure(running: _Running, system: System, settings: Settings, shape: Shape) -> Swept:
    target, place, keys = running
    assert target is not None
    queue = settings.queue
    plan = Planner(system, (), Bounds()).evaluate({queue: shape})
    times = system.answers[queue]
    reshape(target, queue, shape)
    behave(target, behaviour_of(times, 0.0))
    load = OpenLoad(target.url, keys, [queue] * len(keys))
    arrivals = Arrivals(system, [queue], (1, 10**9), 1, settings.seconds)
    since_us, before = time.time_ns() // 1000, target.simulator_stats()["received"]
    count = uvloop.run(load.run(arrivals)) - load.refused
    # A shape that cannot carry the load is given up: what is known then is that it misses.
    settled(target, before + count, timeout_s=settings.seconds)
    _emptied(target, before + count)
    archived(target)
    messages, seen = latencies_ms(place, queue, since_us + int(settings.seconds * 1e5))
    slots = shape.processes * shape.concurrency
    backlog = int(min(max(slots / times.mean_s * _BACKLOG_S, _BACKLOG_MIN), _BACKLOG_MAX))
    behave(target, behaviour_of(times, 0.0))
    per_s = _drained_per_s(target, keys[0], queue, backlog)
    _emptied(target, before + count + backlog // BATCH * BATCH)
    wanted = targets.parse(settings.target)
    return Swept(
        settings=settings,
        processes=shape.processes,
        concurrency=shape.concurrency,
        messages=messages,
        predicted_ms=milliseconds(plan.queues[0].latencies),
        measured_ms={quantile_name(part): round(seen[part], 2) for part in PARTS},
        throughput_per_s=round(per_s, 1),
        meets=seen[wanted.part] <= wanted.latency_s * 1e3,
        trouble=dict(load.trouble),
    )


def _drained_per_s(target: Engine, key: str, queue: Queue, backlog: int) -> float:
    """How fast a backlog is sent: messages a second, of those between its first and its last tenth."""
    target.call("POST", "/v1/admin/providers/simulated/pause")
    time.sleep(1.0)
    before = target.simulator_stats()["received"]
    uvloop.run(fill(target.url, [key], backlog, queue))
    target.call("POST", "/v1/admin/providers/simulated/resume")
    seen: list[tuple[float, int]] = []
    deadline_s = time.monotonic() + _BACKLOG_WAIT_S
    while time.monotonic() < deadline_s:
        sent = target.simulator_stats()["received"] - before
        if backlog * 0.1 <= sent <= backlog * 0.9:
            seen.append((time.monotonic(), sent))
        if sent >= backlog * 0.9:
            break
        time.sleep(0.05)
    if len(seen) < 2:
        return 0.0
    (began_s, first), (ended_s, last) = seen[0], seen[-1]
    return (last - first) / (ended_s - began_s)


def _emptied(target: Engine, received: int) -> None:
    """Let the provider answer at once until nothing waits."""
    behave(target, Behaviour())
    settled(target, received, timeout_s=_BACKLOG_WAIT_S)


def write_report(name: str, swept: Sequence[Swept], folder: Path) -> None:
    """Write NAME.md with a table and NAME.svg with heat maps."""
    settings = swept[0].settings
    wanted = targets.parse(settings.target)
    quantile = quantile_name(wanted.part)
    rows = sorted({s.processes for s in swept})
    columns = sorted({s.concurrency for s in swept})
    of = {(s.processes, s.concurrency): s for s in swept}

    def cells(value: Callable[[Swept], float]) -> dict[tuple[int, int], float]:
        return {place: value(found) for place, found in of.items()}

    maps = [
        HeatMap(
            f"measured {quantile}; framed: {settings.target}",
            cells(lambda found: found.measured_ms[quantile]),
            lambda ms: durations.show(ms / 1e3),
            framed={place for place, found in of.items() if found.meets},
            low_is_good=True,
        ),
        HeatMap(
            f"throughput, messages/s; framed: {settings.rate:g} and more",
            cells(lambda found: found.throughput_per_s),
            lambda rate: f"{rate:,.0f}",
            framed={place for place, found in of.items() if found.throughput_per_s >= settings.rate},
            low_is_good=False,
        ),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.svg").write_text(svg(maps, rows, columns), encoding="utf-8")
    lines = _head(name, settings, rows, columns)
    for found in swept:
        ms = " | ".join(f"{found.measured_ms[quantile_name(part)]:.0f}" for part in PARTS)
        lines.append(
            f"| {found.processes} × {found.concurrency} | {ms} | {found.predicted_ms[quantile]:.0f} "
            f"| {'met' if found.meets else 'missed'} | {found.throughput_per_s:,.0f} |"
        )
    (folder / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _head(name: str, settings: Settings, rows: Sequence[int], columns: Sequence[int]) -> list[str]:
    """The lines of the report before its rows."""
    quantile = quantile_name(targets.parse(settings.target).part)
    return [
        f"# Sweep: {settings.queue}",
        "",
        f"{machine()}; the load and the provider on the same machine.",
        f"Provider: {settings.response_times}. The load is open, {settings.rate:g} messages/s for "
        f"{settings.seconds:g} s, and given up as long after its end. Again:",
        "",
        "```sh",
        *_command(name, settings, rows, columns),
        "```",
        "",
        f"![heat maps]({name}.svg)",
        "",
        f"| processes × concurrency | p50 ms | p95 ms | p99 ms | predicted {quantile} ms | {settings.target} "
        "| messages/s from a backlog |",
        "|---|---|---|---|---|---|---|",
    ]


def _command(
    name: str, settings: Settings, processes: Sequence[int], concurrencies: Sequence[int]
) -> list[str]:
    """The lines that measure the same again."""
    return [
        f".venv/bin/python -m benchmarks.sweep --processes {','.join(map(str, processes))} \\",
        f"    --concurrency {','.join(map(str, concurrencies))} --queue {settings.queue} \\",
        f'    --rate {settings.rate:g} --response-times "{settings.response_times}" \\',
        f'    --target "{settings.target}" --seconds {settings.seconds:g} --name {name}',
    ]


def main() -> None:
    """Sweep, write the report, and say where it is."""
    parser = parser_of("sweep", __doc__)
    parser.add_argument("--processes", type=several(count_from_1), default="1,2,3")
    parser.add_argument("--concurrency", type=several(count_from_1), default="8,32,128")
    parser.add_argument("--queue", choices=QUEUES, default="normal")
    parser.add_argument("--rate", type=more_than_0, default=500.0, help="messages a second (500)")
    parser.add_argument("--response-times", type=times, default="p50=80ms,p90=150ms,p99=900ms")
    parser.add_argument("--target", type=_target, help="such as 'normal p99 <= 2s'")
    parser.add_argument("--seconds", type=more_than_0, default=10.0, help="how long each load lasts (10)")
    parser.add_argument("--name", default="sweep", help="of the files (sweep)")
    parser.add_argument("--costs", type=Path, default=DEFAULT / CALIBRATION, help="what make calibrate wrote")
    parser.add_argument("--report", type=folder, default=REPORTS, help="folder of the report (docs/reports)")
    given = parser.parse_args()
    settings = Settings(
        queue=given.queue,
        rate=given.rate,
        response_times=given.response_times,
        target=given.target or f"{given.queue} p99 <= 2s",
        seconds=given.seconds,
    )
    if max(*given.processes, *given.concurrency) > _SHAPE_MAX:
        parser.error(f"--processes and --concurrency must be {_SHAPE_MAX} or less")
    pairs = itertools.product(sorted({*given.processes}), sorted({*given.concurrency}))
    shapes = [Shape(processes=p, concurrency=c) for p, c in pairs]
    swept = sweep(given.name, settings, shapes, given.costs)
    write_report(given.name, swept, given.report)
    met = sum(found.meets for found in swept)
    print(f"{given.report / given.name}.md: {met} of {len(swept)} meet the target")


def _target(text: str) -> str:
    """A target of `smsengine plan`, of a quantile that is measured."""
    try:
        if targets.parse(text).part not in PARTS:
            raise ValueError("must be of p50, p95 or p99")
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"{e}.") from e
    return text


if __name__ == "__main__":
    main()
