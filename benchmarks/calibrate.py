"""What the engine costs on this machine, for `smsengine plan`: the same as `make calibrate`.

    python -m benchmarks.calibrate [--data-dir data]

Takes two minutes. It starts an engine of its own with one worker for each queue and a provider that answers
at once, and measures the CPU of each process: while nothing happens; with one message at a time, which is a
round of a loop by itself; with single messages from 64 clients; and with requests of 100. The waiting
inside the engine is the time from a submission to its event `sent`, one message at a time. At the end a
worker is killed twice, which shows how soon it is replaced, and fenced. The result is `calibration.json` in
the data directory.
"""

from __future__ import annotations

import datetime
import http.client
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import uvloop

from benchmarks.arguments import folder, parser_of
from benchmarks.deaths import measure_recovery
from benchmarks.load import Load
from benchmarks.running import Engine, engine, settled
from engine.capacity.costs import CALIBRATION, PARTS, Costs, PartCost
from supervisor.datadir import DEFAULT

_ORGANISATIONS, _UNITS = 20, 100_000_000
_IDLE_S, _LOAD_S = 8.0, 12.0
# Messages one at a time, and the pause between them, seconds.
_ALONE, _PAUSE_S = 400, 0.02
_WORKERS = ("express", "normal")


def calibrate() -> Costs:
    """Measure this machine."""
    with (
        tempfile.TemporaryDirectory(prefix="smsengine-calibrate-") as place,
        engine("", place=Path(place)) as target,
    ):
        keys = target.organisations(_ORGANISATIONS, _UNITS)
        _loaded(target, keys, size=100, clients=8, seconds=3.0)
        _say("idle")
        idle = _cpu_while(target, lambda: time.sleep(_IDLE_S))[0]
        idle_per_s = {name: used / _IDLE_S for name, used in idle.items()}
        _say(f"{_ALONE} messages, one at a time")
        began = time.monotonic()
        used, sent = _cpu_while(target, lambda: _alone(target, keys[0]))
        idle_s = time.monotonic() - began
        alone_us = _workers(used, _ALONE) - _workers(idle_per_s, 1) * idle_s / _ALONE
        _say("single messages from 64 clients")
        singles = _us(*_loaded(target, keys, size=1, clients=64, seconds=_LOAD_S))
        _say("requests of 100 messages")
        used, accepted = _loaded(target, keys, size=100, clients=16, seconds=_LOAD_S)
        batches = _us(used, accepted)
        message_us = _workers(used, accepted)
        inner = _inner_ms(target, keys[0], sent)
        _say("workers that are killed")
        recovery = measure_recovery(target, Path(place, "log"), "express")
    return Costs(
        machine=f"{platform.node()}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        # One message alone is in two rounds: it is sent in one, and its answer is acted upon in another.
        round_us=round(max((alone_us - message_us) / 2, 0.0), 1),
        message_us=round(message_us, 2),
        parts={
            part: PartCost(
                single_us=round(singles.get(part, 0.0), 2), batch_us=round(batches.get(part, 0.0), 2)
            )
            for part in PARTS
        },
        inner_ms=inner,
        replaced_s=recovery.replaced_s,
        fenced_s=recovery.fenced_s,
    )


def _loaded(
    target: Engine, keys: list[str], size: int, clients: int, seconds: float
) -> tuple[dict[str, float], int]:
    before = target.simulator_stats()["received"]
    load = Load(target.url, keys, size=size, express_share=0.5, connections=clients, seed=1)
    used, _ = _cpu_while(target, lambda: _until_sent(target, load, clients, seconds, before))
    return used, load.tally.accepted


def _until_sent(target: Engine, load: Load, clients: int, seconds: float, before: int) -> None:
    uvloop.run(load.closed(clients, seconds))
    settled(target, before + load.tally.accepted, timeout_s=60)


def _cpu_while(target: Engine, action: Any) -> tuple[dict[str, float], Any]:
    """CPU of each process while `action` runs, seconds; and what it returned."""
    before = target.cpu_s()
    answer = action()
    after = target.cpu_s()
    return {name: after[name] - before.get(name, 0.0) for name in after}, answer


def _workers(used: dict[str, float], messages: float) -> float:
    return sum(used.get(name, 0.0) for name in _WORKERS) * 1e6 / messages


def _us(used: dict[str, float], messages: int) -> dict[str, float]:
    return {name: seconds * 1e6 / max(messages, 1) for name, seconds in used.items()}


def _alone(target: Engine, key: str) -> dict[str, float]:
    """Send messages one at a time: by id, when each was submitted, seconds of the clock of this machine."""
    connection = http.client.HTTPConnection(urlsplit(target.url).netloc, timeout=30)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    body = msgspec.json.encode({"to": "+989121234567", "text": "Your code is 123456.", "queue": "express"})
    sent: dict[str, float] = {}
    for _ in range(_ALONE):
        began = time.time()
        connection.request("POST", "/v1/messages", body, headers)
        answer = connection.getresponse()
        found = msgspec.json.decode(answer.read())
        if answer.status != 202:
            raise SystemExit(f"The engine refused a message: {found.get('detail', answer.status)}")
        sent[found["id"]] = began
        time.sleep(_PAUSE_S)
    return sent


def _inner_ms(target: Engine, key: str, submitted: dict[str, float]) -> list[tuple[float, float]]:
    """Quantiles of the time from a submission to its event `sent`, milliseconds."""
    connection = http.client.HTTPConnection(urlsplit(target.url).netloc, timeout=30)
    taken = []
    for message_id, began in submitted.items():
        connection.request("GET", f"/v1/messages/{message_id}", headers={"Authorization": f"Bearer {key}"})
        events = msgspec.json.decode(connection.getresponse().read()).get("events", [])
        at = next((e["at"] for e in events if e["event"] == "sent"), None)
        if at is not None:
            moment = datetime.datetime.fromisoformat(at)
            taken.append(max((moment.timestamp() - began) * 1e3, 0.01))
    taken.sort()
    if len(taken) < len(submitted) // 2:
        raise SystemExit("The engine knows too few of the messages that were sent, so nothing can be said.")
    return [(part, round(taken[int(part * len(taken))], 3)) for part in (0.1, 0.5, 0.9, 0.99)]


def _say(what: str) -> None:
    print(f"measuring: {what} ...", file=sys.stderr)


def main() -> None:
    """Measure, write the file, and say what was found."""
    parser = parser_of("calibrate", __doc__)
    parser.add_argument("--data-dir", type=folder, default=DEFAULT, help="where to write calibration.json")
    chosen = parser.parse_args()
    found = calibrate()
    chosen.data_dir.mkdir(parents=True, exist_ok=True)
    file = chosen.data_dir / CALIBRATION
    file.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    print(f"a worker: {found.message_us} us a message, and {found.round_us} us a round of its loop")
    for part, cost in found.parts.items():
        print(
            f"{part}: {cost.single_us} us a message that comes alone, {cost.batch_us} us in a request of 100"
        )
    print("inside the engine: " + ", ".join(f"p{part * 100:g} {ms} ms" for part, ms in found.inner_ms))
    print(f"a worker that is killed: replaced after {found.replaced_s} s, fenced after {found.fenced_s} s")
    print(f"written to {file}")


if __name__ == "__main__":
    main()
