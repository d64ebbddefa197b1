"""A simulated SMS provider to send to: `python -m supervisor.simulator`.

    POST /send       {"id","to","from","text","segments"} -> {"status":"accepted","id"}
    GET  /stats      {"received","distinct","duplicates"}; ?detail=1 for more
    GET  /received   ids of the messages taken; ?format=lines, ?after=N&limit=M, ?duplicates=1;
                     ?further=1 lists the segments 2, 3, ... that came over SMPP
    POST /inbound    {"from","to","text"}: brings a message that a recipient wrote (`inbound.Handsets`)
    POST /reset      sets all counts to 0
    GET, PUT /behaviour   how it answers; PUT takes all fields or some (`behaviour.Behaviour`)

With `--smpp-listen` it also takes SMPP 3.4 on a second port (`supervisor.simulator.smpp`),
with the same behaviour and the same counts.

`received` counts the sends that the provider took. These are the sends that it answered with
200 and, unless `lost_answers_count` is false, the sends whose answer it lost (`timeout`,
`reset`). It answers throttled sends and sends in an outage at once, and all others after the
latency drawn for them. It sends receipts for what it took if the behaviour says so
(`supervisor.simulator.receipts`). It keeps everything in memory only: a simulator that was
killed starts again with counts of 0, and the receipts that it had not sent never come.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Sequence
from typing import Any

import msgspec
import uvloop

from engine.errors import ConfigError
from supervisor.simulator.control import Control
from supervisor.simulator.inbound import Handsets
from supervisor.simulator.launch import Simulator, start_simulator
from supervisor.simulator.options import Options, options
from supervisor.simulator.outbox import Outbox
from supervisor.simulator.provider import SimulatedProvider
from supervisor.simulator.push import Pusher
from supervisor.simulator.server import listen
from supervisor.simulator.smpp import listen_smpp
from supervisor.simulator.smpp_sessions import Sessions

__all__ = ["Simulator", "main", "options", "run", "start_simulator"]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 after SIGTERM or SIGINT, 2 with one sentence when it cannot start."""
    try:
        run(options(sys.argv[1:] if arguments is None else arguments))
    except ConfigError as e:
        sys.stderr.write(f"{e}\n")
        return 2
    return 0


def run(wanted: Options) -> None:
    """Serve until SIGTERM or SIGINT. Raises ConfigError when a port cannot be listened on.

    With `die_with_parent` SIGTERM is ignored: systemd sends it to every process of a unit at
    once, and the parent still needs the simulator then. It ends it by SIGINT.
    """
    if wanted.die_with_parent:
        # If the parent has ended before this call, writing the ready line fails: nobody reads it.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
    try:
        uvloop.run(_serve(wanted))
    except BrokenPipeError:
        return  # the process that waited for the ready line has ended


async def _serve(wanted: Options) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stopping.set)
    loop.add_signal_handler(signal.SIGTERM, (lambda: None) if wanted.die_with_parent else stopping.set)
    outbox = Outbox()
    provider = SimulatedProvider(wanted.behaviour, outbox)
    sessions = Sessions(lambda: provider.behaviour, outbox.ended)
    outbox.use(
        http=Pusher(lambda: _receipt_url(provider), outbox.ended),
        smpp=sessions,
        messages=Pusher(lambda: None, outbox.ended),
    )
    handsets = Handsets(outbox, sessions.receivers)
    control = Control(provider, {"receipts": outbox.stats, "smpp": sessions.stats}, handsets.write)
    http = listen(provider, control, wanted.host, wanted.port)
    servers = [await _listening(http, "--listen", wanted.host, wanted.port)]
    ready: dict[str, Any] = {"url": f"http://{_shown(wanted.host, servers[0])}"}
    sentence = (
        f"A simulated provider answers at {ready['url']} (POST /send; GET /stats, /received; PUT /behaviour)"
    )
    if wanted.smpp is not None:
        smpp = listen_smpp(provider, sessions, *wanted.smpp)
        servers.append(await _listening(smpp, "--smpp-listen", *wanted.smpp))
        ready["smpp_port"] = _port(servers[1])
        sentence += f" and takes SMPP at {_shown(wanted.smpp[0], servers[1])}"
        sessions.start()
    sys.stdout.write((msgspec.json.encode(ready).decode() if wanted.json else f"{sentence}.") + "\n")
    sys.stdout.flush()
    gc.freeze()  # these objects stay to the end, so the collector need not look at them
    await stopping.wait()
    sessions.stop()
    for server in servers:
        server.close()


def _receipt_url(provider: SimulatedProvider) -> str | None:
    receipts = provider.behaviour.receipts
    return None if receipts is None else receipts.url


async def _listening(server: Awaitable[asyncio.Server], flag: str, host: str, port: int) -> asyncio.Server:
    try:
        return await server
    except (OSError, UnicodeError) as e:
        raise ConfigError(f"{flag} {host}:{port} cannot be listened on: {_reason(e)}.") from e


def _port(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


def _shown(host: str, server: asyncio.Server) -> str:
    return f"[{host}]:{_port(server)}" if ":" in host else f"{host}:{_port(server)}"


def _reason(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return str(error.strerror).lower()
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()  # str(error) has words of the loop around it
    return "it is not an address"
