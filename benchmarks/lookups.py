"""Look-ups of messages over HTTP: `GET /v1/messages/{id}`, of archived messages.

    python -m benchmarks.lookups [--messages 20000] [--seconds 6] [--clients 1,8,32,128] [--rates 15000]

Takes two minutes. A demo engine accepts and delivers `--messages`, and is left until all are archived. Then
so many clients look up one message of them after another, drawn by chance; clients that ask for ids that
nobody gave out; one that looks up each message right after it was accepted; and four clients beside a load of
batches: so many messages a second as `--rates` says, and as many as are taken. Of each it prints look-ups a
second, latency, and the CPU that each process of the engine used for one (for a message with its look-up).
Exit code 1 when any answer was not what it must be.
"""

from __future__ import annotations

import asyncio
import http
import http.client
import json
import platform
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import uvloop

from benchmarks.arguments import count_from_1, from_0, more_than_0, parser_of, several
from benchmarks.closed_load import Request, offer
from benchmarks.load import Load
from benchmarks.running import Engine, engine
from benchmarks.tally import Tally
from engine.hosts.cores import usable_cores
from engine.ids import MessageIds, accepted_at_us

_UNITS = 1_000_000_000
_BATCH = 100
# Of the load beside which is measured.
_LOAD_CLIENTS = 8


async def look_up(
    url: str, key: str, ids: list[str], clients: int, seconds: float, wanted_status: int = 200
) -> Tally:
    """`clients` that each ask for one message after another, drawn from `ids`, for so many seconds."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    rng = random.Random(1)
    headers = f"Authorization: Bearer {key}\r\n".encode()

    def requests() -> Iterator[Request]:
        while True:
            yield b"GET", b"/v1/messages/" + rng.choice(ids).encode(), headers, b""

    return await offer(parts.hostname, parts.port, requests(), clients, seconds, wanted_status)


def of_the_newest(url: str, key: str, seconds: float) -> Tally:
    """One client that sends a message and looks it up at once, again and again; the look-ups count."""
    found, parts = Tally(), urlsplit(url)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=30)

    def call(method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()

    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        _, accepted = call("POST", "/v1/messages", json.dumps({"to": "+989120000001", "text": "Now."}))
        path, begun = "/v1/messages/" + json.loads(accepted)["id"], time.perf_counter()
        status, _ = call("GET", path)
        took_s = time.perf_counter() - begun
        found.took(took_s)
        found.seconds += took_s
        if status != http.HTTPStatus.OK:
            found.trouble[f"status {status}"] += 1
    connection.close()
    return found


async def beside_load(
    url: str, key: str, ids: list[str], clients: int, seconds: float, per_s: float
) -> tuple[Tally, Load]:
    """The same while `per_s` messages a second come in, in batches; 0: as many as are taken."""
    load = Load(url, [key], size=_BATCH, express_share=0.0, connections=_LOAD_CLIENTS, seed=1)
    offered = load.open(per_s, seconds + 2.0) if per_s else load.closed(_LOAD_CLIENTS, seconds + 2.0)
    loading = asyncio.create_task(offered)
    await asyncio.sleep(2.0)
    found = await look_up(url, key, ids, clients, seconds)
    await loading
    return found, load


def _accepted(target: Engine, key: str, count: int) -> list[str]:
    """Ids of `count` messages that were accepted now."""
    sending = replace(target, admin_url=target.url, admin_key=key)
    made: list[str] = []
    for first in range(0, count, _BATCH):
        messages = [
            {"to": f"+98912{first + i:07d}", "text": "Your code is 482913.", "queue": "normal"}
            for i in range(_BATCH)
        ]
        answer = sending.call("POST", "/v1/messages/batch", {"messages": messages})
        made += [result["id"] for result in answer["results"]]
    return made


def _archived(target: Engine, timeout_s: float = 120.0) -> None:
    """Wait until nothing is left to deliver or to archive."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        status = target.call("GET", "/v1/admin/status")
        queues = status["queues"].values()
        if (
            not any(q["waiting"] + q["in_hand"] + q["due"] for q in queues)
            and not status["activity"]["waiting_entries"]
        ):
            return
        time.sleep(0.5)
    raise SystemExit("The messages were not archived in time.")


def _forged(ids: list[str]) -> list[str]:
    """Ids of the same times that nobody gave out."""
    rng = random.Random(2)
    makers = [MessageIds(rng.getrandbits(26), rng.getrandbits(48)) for _ in range(50)]
    return [rng.choice(makers).make((accepted_at_us(i) or 0) // 1000, 1)[0] for i in ids]


def _row(name: str, found: Tally, cpu_us: dict[str, float]) -> dict[str, object]:
    row = {
        "case": name,
        "per_s": round(found.requests / found.seconds),
        "p50_ms": round(found.quantile_ms(0.5), 1),
        "p99_ms": round(found.quantile_ms(0.99), 1),
        "wrong": dict(found.trouble),
        "cpu_us": cpu_us,
    }
    shown = ", ".join(f"{process} {used:.0f}" for process, used in cpu_us.items())
    print(
        f"{name:<30} {row['per_s']:>6}/s  p50 {row['p50_ms']:>7} ms  p99 {row['p99_ms']:>7} ms  "
        f"{dict(found.trouble) or ''}\n    CPU, µs a look-up: {shown}",
        flush=True,
    )
    return row


def _cpu_us(target: Engine, before: dict[str, float], count: int) -> dict[str, float]:
    used = {name: (after - before.get(name, 0.0)) * 1e6 for name, after in target.cpu_s().items()}
    return {name: round(us / max(count, 1)) for name, us in used.items() if us / max(count, 1) >= 5}


def _rates(text: str) -> list[float]:
    return several(from_0)(text) if text else []


def main() -> int:
    """Measure, print the figures and one line of JSON: the exit code."""
    parser = parser_of("lookups", __doc__)
    parser.add_argument(
        "--messages", type=count_from_1, default=20_000, help="that are there (default 20000)"
    )
    parser.add_argument("--seconds", type=more_than_0, default=6, help="of each case (default 6)")
    parser.add_argument(
        "--clients", type=several(count_from_1), default="1,8,32,128", help="(default 1,8,32,128)"
    )
    parser.add_argument(
        "--rates",
        type=_rates,
        default="15000,0",
        help="of the loads beside which is measured, messages a second; 0: as many as are taken; none: ''"
        " (default 15000,0)",
    )
    parser.add_argument("--beside", type=count_from_1, default=4, help="clients beside a load (default 4)")
    arguments = parser.parse_args()
    rows = []
    with engine("") as target:
        (key,) = target.organisations(1, _UNITS)
        ids = _accepted(target, key, arguments.messages)
        _archived(target)

        def case(name: str, asked: list[str], clients: int, status: int) -> None:
            before = target.cpu_s()
            found = uvloop.run(look_up(target.url, key, asked, clients, arguments.seconds, status))
            rows.append(_row(name, found, _cpu_us(target, before, found.requests)))

        for clients in arguments.clients:
            case(f"{clients} clients", ids, clients, 200)
        case("32 clients, forged ids", _forged(ids), 32, 404)
        before = target.cpu_s()
        newest = of_the_newest(target.url, key, arguments.seconds)
        rows.append(_row("1 client, right after the 202", newest, _cpu_us(target, before, newest.requests)))
        for per_s in arguments.rates:
            before = target.cpu_s()
            found, load = uvloop.run(
                beside_load(target.url, key, ids, arguments.beside, arguments.seconds, per_s)
            )
            taken = f"{load.tally.accepted / load.tally.seconds:.0f}/s"
            name = f"{arguments.beside} clients beside {taken}"
            rows.append(_row(name, found, _cpu_us(target, before, found.requests)))
    machine = {"cores": usable_cores(), "python": platform.python_version(), "machine": platform.machine()}
    print(json.dumps({"benchmark": "lookups", **machine, "messages": arguments.messages, "cases": rows}))
    return 1 if any(row["wrong"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
