"""An engine in a given shape, before a provider that answers as slowly as a distribution says."""

from __future__ import annotations

import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
import uvloop

from benchmarks.open_load import OpenLoad
from benchmarks.running import Engine, settled
from benchmarks.typical_load import PARTS
from engine.capacity import costs as costs_of
from engine.capacity.costs import Costs
from engine.capacity.response_times import ResponseTimes
from engine.capacity.simulation import Arrivals, Latencies, Shape, System
from engine.records import Queue
from supervisor.running import Running
from supervisor.simulator.behaviour import Behaviour, ErrorRates, Latency

_QUERY = """
SELECT count(), {quantiles} FROM (
    SELECT dateDiff('microsecond', fromUnixTimestamp64Micro(toInt64(reference)), at) / 1000 AS ms
    FROM activity WHERE event = 'sent' AND queue = '{queue}' AND toInt64(reference) >= {since_us}
)
"""


def configuration(shapes: Mapping[Queue, Shape], throughput: float | None = None) -> str:
    """The TOML of an engine with these shapes and one simulated provider."""
    lines = ["[roles]", *(f"{queue} = {shape.processes}" for queue, shape in shapes.items())]
    for queue, shape in shapes.items():
        lines += [f"[queues.{queue}]", f"concurrency = {shape.concurrency}"]
    lines += ["[queues.express]"] if "express" not in shapes else []
    lines += ["[[providers]]", 'type = "simulated"', 'name = "simulated"', "connections_max = 4096"]
    lines += [f"throughput = {throughput}"] if throughput else []
    return "\n".join(lines) + "\n"


def behaviour_of(times: ResponseTimes, failures: float) -> Behaviour:
    """A provider that answers as `times` say."""
    step = max(1, len(times.times_s) // 4000)
    points = [
        ((n + 0.5) / len(times.times_s), times.times_s[n] * 1e3) for n in range(0, len(times.times_s), step)
    ]
    return Behaviour(latency=Latency(quantiles=points), error_rates=ErrorRates(temporary=failures))


def behave(target: Engine, behaviour: Behaviour) -> None:
    """Make the simulated provider behave so; with a seed, it draws anew."""
    body = msgspec.json.encode(behaviour)
    request = urllib.request.Request(f"{target.simulator_url}/behaviour", method="PUT", data=body)
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()


def warm(target: Engine, load: OpenLoad, system: System) -> None:
    """Let every organisation have credit in the process, and every connection its first request."""
    before = target.simulator_stats()["received"]
    count = uvloop.run(load.run(Arrivals(system, system.queues, (1, 10**9), 5, 4.0)))
    settled(target, before + count, timeout_s=60)


def reshape(target: Engine, queue: Queue, shape: Shape) -> None:
    """Give the engine another shape of one queue, and wait until it is in force."""
    wanted = {"processes": shape.processes, "concurrency": shape.concurrency, "force": True}
    target.call("POST", f"/v1/admin/queues/{queue}/scale", wanted)
    deadline = time.monotonic() + 60
    # Within two seconds it is in force.
    time.sleep(2.5)
    while time.monotonic() < deadline:
        processes = target.call("GET", "/v1/admin/status")["processes"]
        states = [process["state"] for process in processes if process["role"] == queue]
        if states == ["ready"] * shape.processes:
            return
        time.sleep(0.2)
    raise SystemExit(f"{queue} did not come to {shape.processes} processes within a minute.")


def archived(target: Engine) -> None:
    """Wait until all activity is in ClickHouse."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not target.call("GET", "/v1/admin/status")["activity"]["waiting_entries"]:
            return
        time.sleep(0.2)


def latencies_ms(folder: Path, queue: Queue, since_us: int) -> tuple[int, dict[float, float]]:
    """Messages that were due since `since_us`, and the quantiles of their latencies, milliseconds; `folder`
    is where the engine runs."""
    running = msgspec.json.decode((folder / "data/run/engine.json").read_bytes(), type=Running)
    url = urlsplit(running.config.clickhouse.url)
    parts = sorted({*PARTS, 0.999})
    quantiles = ", ".join(f"quantileExact({p})(ms)" for p in parts)
    sql = _QUERY.format(quantiles=quantiles, queue=queue, since_us=since_us) + " FORMAT JSONCompact"
    request = urllib.request.Request(
        f"{url.scheme}://{url.hostname}:{url.port}/?database={quote(url.path.strip('/') or 'default')}",
        data=sql.encode(),
        headers={"X-ClickHouse-User": url.username or "default", "X-ClickHouse-Key": url.password or ""},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        row: list[Any] = msgspec.json.decode(answer.read())["data"][0]
    return int(row[0]), {p: float(v) for p, v in zip(parts, row[1:], strict=True)}


def milliseconds(latencies: Latencies) -> dict[str, float]:
    """The quantiles of predicted latencies, such as "p99", milliseconds."""
    return {quantile_name(p): round(latencies.quantile_s(p) * 1e3, 2) for p in PARTS}


def quantile_name(part: float) -> str:
    """Such as "p99.9"."""
    return f"p{part * 100:g}"


def costs_from(file: Path) -> Costs:
    """What `make calibrate` wrote to `file`, or else the costs of a reference machine."""
    if file.is_file():
        try:
            return costs_of.decode(file.read_bytes())
        except (OSError, ValueError) as e:
            sys.exit(f"{file} is not what make calibrate writes: {e}.")
    print(
        f"{file} is not there; run make calibrate first. The costs are those of a reference machine.",
        file=sys.stderr,
    )
    return costs_of.REFERENCE
