"""Kannel and this engine side by side: HTTP in, SMPP out to the same simulator, in interleaved rounds.

    python -m benchmarks.peers                                        five rounds of all cases
    python -m benchmarks.peers --cases single,batch                   where Kannel is not installed
    python -m benchmarks.peers --rounds 2 --results peers.json        adds two rounds to those in the file
    python -m benchmarks.peers --rounds 0 --results peers.json --report docs/reports

Takes five minutes. Cases: `kannel`, one message a request from 64 connections; `single`, the same for this
engine; `batch`, 100 messages a request from 16 connections. Each round runs every case once, for
`--seconds`, and waits until all that was accepted has arrived at the simulator, everything is recorded, and
the system that was asked is at rest: what is left to be done behind it, such as ClickHouse's merges, is in
the figures of the case that left it, and not beside the next one. Both systems run all the time, one of them
is asked. Both send over one SMPP session with the same window, without receipts.

This engine keeps a message on the disk before it answers (`appendfsync always`), charges it, and records each
event. Kannel keeps it in a store that the operating system writes to the disk later (`--store`). Exit code 1
when a system has lost or doubled a message.
"""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import uvloop

from benchmarks import kannel as peer
from benchmarks import peers_report
from benchmarks.arguments import count_from_0, count_from_1, folder, more_than_0, parser_of
from benchmarks.closed_load import Request, offer
from benchmarks.peers_report import Result, Round
from benchmarks.running import Engine, cpu_s_of, engine
from benchmarks.tally import Tally

_TEXT = "Your verification code is 482913. Do not share it with anyone."
_SYSTEM_ID, _PASSWORD = "peers", "peers"
_UNITS = 1_000_000_000_000
# Numbers that the messages go to, one after another.
_NUMBERS = [f"989121{n:06d}" for n in range(997)]
# Connections, and messages of a request.
_SIZES = {"kannel": (64, 1), "single": (64, 1), "batch": (16, 100)}
# Without a further message for so long, the rest counts as lost, seconds.
_LOST_S = 20.0
# A system whose processes use no more of a core than this, together, is at rest; looked at for so long at
# a time, up to so long in all, seconds.
_REST_CORES = 0.1
_REST_LOOK_S = 1.0
_REST_MAX_S = 60.0


class Simulator:
    """The provider that both send to."""

    def __init__(self, url: str, smpp_port: int, pid: int) -> None:
        self.smpp_port, self.pid = smpp_port, pid
        self._url = url

    def received(self) -> int:
        """How many messages it has taken."""
        with urllib.request.urlopen(f"{self._url}/stats", timeout=30) as answer:
            return int(msgspec.json.decode(answer.read())["received"])

    def wait_for(self, count: int) -> float:
        """Wait until it has taken `count`, or takes no more; the instant of the last, time.monotonic()."""
        taken, last_s = self.received(), time.monotonic()
        while taken < count and time.monotonic() - last_s < _LOST_S:
            time.sleep(0.05)
            if (now := self.received()) > taken:
                taken, last_s = now, time.monotonic()
        return last_s


@contextlib.contextmanager
def _simulator() -> Iterator[Simulator]:
    command = [sys.executable, "-m", "supervisor.simulator", "--listen", "127.0.0.1:0", "--json"]
    command += ["--smpp-listen", "127.0.0.1:0", "--smpp-system-id", _SYSTEM_ID, "--smpp-password", _PASSWORD]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        ready = msgspec.json.decode(process.stdout.readline())
        yield Simulator(ready["url"], ready["smpp_port"], process.pid)
    finally:
        process.terminate()
        process.wait()


def _configuration(smpp_port: int, window: int) -> str:
    return (
        f'[[providers]]\nname = "simulator"\ntype = "smpp"\nhost = "127.0.0.1"\nport = {smpp_port}\n'
        f'system_id = "{_SYSTEM_ID}"\npassword = "{_PASSWORD}"\nwindow = {window}\nreceipts = false\n'
        '[[routes]]\nprefix = ""\nproviders = ["simulator"]\n'
    )


class Bench:
    """Both systems, running."""

    def __init__(self, simulator: Simulator, target: Engine, kannel: peer.Kannel | None) -> None:
        self._simulator, self._target, self._kannel = simulator, target, kannel
        (self._key,) = target.organisations(1, _UNITS)
        self.supervisor_pid = target.pid

    def run(self, case: str, seconds: float) -> Result:
        """One case of a round."""
        connections, size = _SIZES[case]
        port = self._kannel.port if case == "kannel" and self._kannel else _port(self._target.url)
        received, cpu = self._simulator.received(), self._cpu_s(case)
        start = time.monotonic()
        offered: Tally = uvloop.run(offer("127.0.0.1", port, self._requests(case), connections, seconds))
        accepted = offered.accepted * size
        last_s = self._simulator.wait_for(received + accepted)
        if case != "kannel":
            self._recorded()
        self._rest(case)
        used = {name: after - cpu.get(name, 0.0) for name, after in self._cpu_s(case).items()}
        arrived = self._simulator.received() - received
        return Result(
            accepted=accepted,
            accepted_per_s=accepted / offered.seconds,
            arrived=arrived,
            arrived_per_s=arrived / max(last_s - start, offered.seconds),
            answer_ms={q: offered.quantile_ms(int(q[1:]) / 100) for q in ("p50", "p99")},
            wrong=dict(offered.trouble),
            cpu_us={name: s * 1e6 / max(arrived, 1) for name, s in used.items()},
        )

    def _requests(self, case: str) -> Iterator[Request]:
        if case == "kannel":
            assert self._kannel is not None
            text = quote(_TEXT)
            paths = [self._kannel.path(number, text) for number in _NUMBERS]
            return itertools.cycle([(b"GET", path, b"", b"") for path in paths])
        headers = f"Authorization: Bearer {self._key}\r\nContent-Type: application/json\r\n".encode()
        messages: list[dict[str, str]] = [
            {"to": f"+{number}", "text": _TEXT, "queue": "normal"} for number in _NUMBERS
        ]
        if case == "single":
            bodies: list[Any] = list(messages)
            path = b"/v1/messages"
        else:
            starts = range(0, len(messages) - 100, 50)
            bodies = [{"messages": messages[first : first + 100]} for first in starts]
            path = b"/v1/messages/batch"
        return itertools.cycle([(b"POST", path, headers, msgspec.json.encode(body)) for body in bodies])

    def _recorded(self) -> None:
        """Wait until the engine has settled and archived what it has delivered."""
        settled_by = time.monotonic() + 60.0
        # The looks are paid by the engine, too: few of them.
        time.sleep(1.5)
        while time.monotonic() < settled_by:
            status = self._target.call("GET", "/v1/admin/status")
            waiting = [q["waiting"] + q["in_hand"] + q["due"] for q in status["queues"].values()]
            if not any(waiting) and not status["activity"]["waiting_entries"]:
                return
            time.sleep(1.0)

    def _rest(self, case: str) -> None:
        """Wait until the system has nothing left to do."""
        rest_by, before_s = time.monotonic() + _REST_MAX_S, sum(self._cpu_s(case).values())
        while time.monotonic() < rest_by:
            time.sleep(_REST_LOOK_S)
            now_s = sum(self._cpu_s(case).values())
            if now_s - before_s <= _REST_CORES * _REST_LOOK_S:
                return
            before_s = now_s

    def _cpu_s(self, case: str) -> dict[str, float]:
        if case == "kannel" and self._kannel:
            found = self._kannel.cpu_s()
        else:
            found = {name: s for name, s in self._target.cpu_s().items() if name != "simulator"}
        return found | {"(simulator)": cpu_s_of(self._simulator.pid), "(load)": time.process_time()}


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


@contextlib.contextmanager
def bench(cases: list[str], store: peer.Store, window: int) -> Iterator[Bench]:
    """Both systems with their provider, as far as the cases need them."""
    with contextlib.ExitStack() as stack:
        simulator = stack.enter_context(_simulator())
        kannel = None
        if "kannel" in cases:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smsengine-kannel-")))
            kannel = stack.enter_context(
                peer.kannel(
                    folder, simulator.smpp_port, system_id=_SYSTEM_ID, password=_PASSWORD, window=window,
                    store=store,
                )
            )  # fmt: skip
        target = stack.enter_context(engine(_configuration(simulator.smpp_port, window)))
        yield Bench(simulator, target, kannel)


def measure(
    cases: list[str],
    rounds: int,
    seconds: float,
    store: peer.Store,
    window: int,
    done: Callable[[Round], None],
) -> None:
    """Run so many rounds; `done` is given each when it has ended."""
    with bench(cases, store, window) as both:
        for case in cases:
            # Code is loaded and connections stand before anything counts.
            both.run(case, 1.0)
        for number in range(rounds):
            # Another one begins each round.
            first = number % len(cases)
            results = {}
            for case in [*cases[first:], *cases[:first]]:
                result = results[case] = both.run(case, seconds)
                print(f"{case:<8} {peers_report.line_of(result)}", flush=True)
            done(Round(store=store, window=window, seconds=seconds, results=results))


def main() -> int:
    """Measure, print the figures, write what was asked for: the exit code."""
    parser = parser_of("peers", __doc__)
    parser.add_argument("--rounds", type=count_from_0, default=5, help="(default 5)")
    parser.add_argument(
        "--seconds", type=more_than_0, default=8, help="that each case is offered load (default 8)"
    )
    parser.add_argument("--cases", default="kannel,single,batch", help="(default kannel,single,batch)")
    parser.add_argument("--store", choices=("file", "spool"), default="file", help="of Kannel (default file)")
    parser.add_argument("--window", type=count_from_1, default=100, help="of the SMPP session (default 100)")
    parser.add_argument("--results", type=Path, help="JSON file that the rounds are added to")
    parser.add_argument("--report", type=folder, help="directory for peers.md and peers.svg of all rounds")
    arguments = parser.parse_args()
    cases = arguments.cases.split(",")
    if unknown := [case for case in cases if case not in _SIZES]:
        parser.exit(2, f"--cases: {unknown[0]} is not one of {', '.join(_SIZES)}.\n")
    if "kannel" in cases and arguments.rounds and not peer.is_here():
        parser.exit(2, peer.MISSING + "\n")
    try:
        results = peers_report.Results.read(arguments.results)
    except (OSError, msgspec.MsgspecError) as e:
        parser.exit(2, f"--results: {arguments.results} is no file of results: {e}.\n")

    def done(one: Round) -> None:
        results.rounds.append(one)
        if arguments.results:
            results.write(arguments.results)

    if arguments.rounds:
        results.note_machine(peer.version() if "kannel" in cases else "")
        measure(cases, arguments.rounds, arguments.seconds, arguments.store, arguments.window, done)
    print(peers_report.text_of(results))
    if arguments.report:
        peers_report.write(results, arguments.report)
    lost = [r for one in results.rounds for r in one.results.values() if r.arrived != r.accepted]
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
