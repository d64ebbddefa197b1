"""A simulated SMS carrier to send to: `python -m supervisor.embedded.simulator`.

    POST /send       {"id","to","from","text","segments"} -> {"status":"accepted","id"}
    GET  /stats      {"received","distinct","duplicates"}; ?detail=1 for more
    GET  /received   the message ids taken; ?format=lines, ?after=N&limit=M, ?duplicates=1
    POST /reset      counts from nought
    GET, PUT /behaviour   how it answers, as a whole or in part (`simulator_behaviour`)

`received` counts the sends the carrier took: those answered 200 and, unless
`lost_answers_count` is false, those whose answer it lost (`timeout`, `reset`).
Throttled sends and sends in an outage are answered at once, all others after the
latency drawn. Everything is kept in memory only: a killed simulator starts from nought.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import uvloop

from engine.config import split_listen
from engine.errors import ConfigError, Refusal
from supervisor.embedded.simulator_behaviour import Behaviour, decode, quantiles_from_csv
from supervisor.embedded.simulator_carrier import Carrier
from supervisor.embedded.simulator_launch import Simulator, start_simulator
from supervisor.embedded.simulator_server import listen

__all__ = ["Simulator", "main", "options", "run", "start_simulator"]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

# Which flag sets a field of the behaviour, for errors in the operator's words.
_FLAGS = {
    "latency.constant_ms": "--latency-ms",
    "latency.lognormal.median_ms": "--latency-lognormal",
    "latency.lognormal.sigma": "--latency-lognormal",
    "latency.quantiles": "--latency-file",
    "error_rates.temporary": "--temporary",
    "error_rates.permanent": "--permanent",
    "error_rates.timeout": "--timeout-rate",
    "error_rates.reset": "--reset-rate",
    "error_rates": "--temporary, --permanent, --timeout-rate and --reset-rate",
    "throughput": "--throughput",
    "seed": "--seed",
}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says."""

    host: str
    port: int
    behaviour: Behaviour
    json: bool = False
    die_with_parent: bool = False


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message[:1].upper()}{message[1:]}.")


def options(arguments: Sequence[str]) -> Options:
    """Raises ConfigError naming the flag and what is allowed."""
    given = _parser().parse_args(arguments)
    address = split_listen(given.listen)
    if not address:
        raise ConfigError(f"--listen must be HOST:PORT, not {given.listen!r}.")
    settings: dict[str, Any] = {
        "error_rates": {
            "temporary": given.temporary,
            "permanent": given.permanent,
            "timeout": given.timeout_rate,
            "reset": given.reset_rate,
        },
        "throughput": given.throughput,
        "outage": {"no": False, "yes": True}.get(given.outage, given.outage),
        "seed": given.seed,
    }
    try:
        settings["latency"] = _latency(given)
        behaviour = decode(settings)
    except Refusal as e:
        flag = _FLAGS.get(e.field or "")
        sentence = e.detail.replace(str(e.field), flag, 1) if flag else e.detail
        raise ConfigError(sentence) from e
    return Options(
        host=address[0],
        port=address[1],
        behaviour=behaviour,
        json=given.json,
        die_with_parent=given.die_with_parent,
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="smsengine simulator", description="A simulated SMS carrier to send to.", allow_abbrev=False
    )
    add = parser.add_argument
    add(
        "--listen",
        default="127.0.0.1:8090",
        metavar="HOST:PORT",
        help="port 0 takes a free one (%(default)s)",
    )
    latency = parser.add_mutually_exclusive_group()
    latency.add_argument("--latency-ms", type=float, metavar="MS", help="every answer takes this long (0)")
    latency.add_argument("--latency-lognormal", metavar="MEDIAN:SIGMA", help="median in milliseconds")
    latency.add_argument("--latency-file", type=Path, metavar="FILE", help="CSV of quantile,milliseconds")
    rate = "share of sends, 0 to 1, that"
    add("--temporary", type=float, default=0.0, metavar="P", help=f"{rate} fail for now (503)")
    add("--permanent", type=float, default=0.0, metavar="P", help=f"{rate} are rejected (422)")
    add("--timeout-rate", type=float, default=0.0, metavar="P", help=f"{rate} are never answered")
    add("--reset-rate", type=float, default=0.0, metavar="P", help=f"{rate} have their connection reset")
    add("--throughput", type=float, metavar="N", help="sends a second, above it 429 (no bound)")
    add("--outage", choices=["no", "yes", "refuse", "hang"], nargs="?", const="yes", default="no",
        help="take nothing: answer 503, close the connection, or never answer")  # fmt: skip
    add("--seed", type=int, metavar="N", help="make the same decisions in the same order")
    add("--json", action="store_true", help='print one line {"url": ...} when ready')
    add("--die-with-parent", action="store_true", help="end when the process that started this one ends")
    return parser


def _latency(given: argparse.Namespace) -> dict[str, Any]:
    if given.latency_lognormal is not None:
        median, _, sigma = given.latency_lognormal.partition(":")
        try:
            shape = {"median_ms": float(median), "sigma": float(sigma)}
        except ValueError as e:
            raise ConfigError("--latency-lognormal must be MEDIAN:SIGMA, e.g. 120:0.5.") from e
        return {"lognormal": shape}
    if given.latency_file is not None:
        try:
            text = given.latency_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            reason = e.strerror if isinstance(e, OSError) else "not UTF-8"
            raise ConfigError(f"--latency-file {given.latency_file} cannot be read: {reason}.") from e
        return {"quantiles": quantiles_from_csv(text)}
    return {"constant_ms": given.latency_ms or 0.0}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 after SIGTERM or SIGINT, 2 with one sentence when it cannot start."""
    try:
        run(options(sys.argv[1:] if arguments is None else arguments))
    except ConfigError as e:
        sys.stderr.write(f"{e}\n")
        return 2
    return 0


def run(wanted: Options) -> None:
    """Serve until SIGTERM or SIGINT. Raises ConfigError when the port is not to be had."""
    if wanted.die_with_parent:
        # A parent that is gone already is noticed at the ready line, which nobody reads.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
    try:
        uvloop.run(_serve(wanted))
    except BrokenPipeError:
        return  # whoever wanted to know that we are ready has gone


async def _serve(wanted: Options) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        server = await listen(Carrier(wanted.behaviour), wanted.host, wanted.port)
    except (OSError, UnicodeError) as e:
        raise ConfigError(f"--listen {wanted.host}:{wanted.port} cannot be listened on: {_reason(e)}.") from e
    port = server.sockets[0].getsockname()[1]
    shown = f"[{wanted.host}]" if ":" in wanted.host else wanted.host
    url = f"http://{shown}:{port}"
    ready = msgspec.json.encode({"url": url}).decode() if wanted.json else (
        f"A simulated carrier answers at {url} (POST /send; GET /stats, /received; PUT /behaviour)."
    )  # fmt: skip
    sys.stdout.write(ready + "\n")
    sys.stdout.flush()
    gc.freeze()  # what is here now stays: never look at it again
    await stopping.wait()
    server.close()


def _reason(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return str(error.strerror).lower()
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()  # the loop puts words of its own around it
    return "it is not an address"


if __name__ == "__main__":
    sys.exit(main())
