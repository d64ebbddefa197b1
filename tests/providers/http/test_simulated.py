"""The simulated provider against the simulator, as processes over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from engine.errors import ConfigError
from engine.providers import build
from engine.providers.ports import Provider
from engine.providers.problems import Problems
from engine.providers.settings import SimulatedSettings
from engine.records import Message, Verdict
from supervisor.simulator import Simulator, start_simulator
from tests.providers.scripted import serving
from tests.providers.sink import Sink

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    simulator = start_simulator()
    yield simulator
    simulator.stop()


def call(simulator: Simulator, method: str, path: str, value: object = None) -> Any:
    body = None if value is None else json.dumps(value).encode()
    with urlopen(Request(simulator.url + path, body, method=method), timeout=60) as answer:
        return json.load(answer)


def behave(simulator: Simulator, error_rates: dict[str, float] | None = None, **behaviour: object) -> None:
    """This behaviour and nothing else; counts from nought."""
    rates = {"temporary": 0, "permanent": 0, "timeout": 0, "reset": 0, **(error_rates or {})}
    plain = {
        "latency": {"constant_ms": 0},
        "error_rates": rates,
        "lost_answers_count": True,
        "throughput": None,
        "outage": False,
        "seed": 1,
    }
    call(simulator, "PUT", "/behaviour", {**plain, **behaviour})
    call(simulator, "POST", "/reset")


def message(number: int = 1) -> Message:
    return Message(
        id=f"01930000-0000-7000-8000-{number:012x}", organisation_id=1, to="+989120000000", sender="Démo",
        text='Your "code" is\n123456 €', encoding="UCS-2", segments=1,
        units=1, accepted_at_us=0, expires_at_us=0,
    )  # fmt: skip


@asynccontextmanager
async def provider_to(url: str, timeout_s: float = 5.0, connections_max: int = 50) -> AsyncIterator[Provider]:
    provider = build(
        SimulatedSettings(name="carrier", url=url, timeout_s=timeout_s, connections_max=connections_max),
        Sink(),
        Problems(),
    )
    await provider.start()
    try:
        yield provider
    finally:
        await provider.stop()


async def verdicts(provider: Provider, messages: list[Message]) -> dict[str, Verdict]:
    """One verdict for each message; fails when one has none, or two."""
    ended = asyncio.Event()
    given: dict[str, Verdict] = {}

    def submit(message: Message) -> None:
        def done(verdict: Verdict) -> None:
            assert not inside
            assert message.id not in given
            given[message.id] = verdict
            if len(given) == len(messages):
                ended.set()

        inside = True
        provider.submit(message, done)
        inside = False

    for one in messages:
        submit(one)
    await asyncio.wait_for(ended.wait(), 60)
    await asyncio.sleep(0)  # a second verdict would come about now
    return given


async def verdict(provider: Provider) -> Verdict:
    return next(iter((await verdicts(provider, [message()])).values()))


async def test_what_the_carrier_is_sent() -> None:
    async def take(body: bytes, writer: asyncio.StreamWriter) -> bytes:
        return b'HTTP/1.1 201 Created\r\nContent-Length: 30\r\n\r\n{"status":"accepted","id":"7"}'

    async with serving(take) as server, provider_to(f"http://127.0.0.1:{server.port}/base/") as provider:
        given = await verdict(provider)
    assert (given.kind, given.provider, given.provider_message_id) == ("accepted", "carrier", "7")
    assert json.loads(server.bodies[0]) == {
        "id": message().id, "to": "+989120000000", "from": "Démo",
        "text": 'Your "code" is\n123456 €', "segments": 1,
    }  # fmt: skip
    assert server.heads[0].startswith(b"POST /base/send HTTP/1.1\r\n")
    assert b"Content-Type: application/json\r\n" in server.heads[0]


async def test_accepted_messages_get_the_carriers_ids(simulator: Simulator) -> None:
    behave(simulator)
    async with provider_to(simulator.url) as provider:
        given = await verdicts(provider, [message(n) for n in range(500)])
    assert {v.kind for v in given.values()} == {"accepted"}
    assert len({v.provider_message_id for v in given.values()}) == 500
    assert "" not in {v.provider_message_id for v in given.values()}
    assert call(simulator, "GET", "/stats") == {"received": 500, "distinct": 500, "duplicates": 0}
    assert sorted(call(simulator, "GET", "/received")["ids"]) == sorted(given)


@pytest.mark.parametrize(
    ("behaviour", "kind", "code", "received"),
    [
        ({"error_rates": {"temporary": 1}}, "temporary", "temporary", 0),
        ({"error_rates": {"permanent": 1}}, "permanent", "rejected", 0),
        ({"error_rates": {"timeout": 1}}, "unknown", "timeout", 1),
        ({"error_rates": {"timeout": 1}, "lost_answers_count": False}, "unknown", "timeout", 0),
        ({"error_rates": {"reset": 1}}, "unknown", "reset", 1),
        ({"error_rates": {"reset": 1}, "lost_answers_count": False}, "unknown", "reset", 0),
        ({"outage": True}, "temporary", "outage", 0),
        ({"outage": "refuse"}, "unknown", "closed", 0),
        ({"outage": "hang"}, "unknown", "timeout", 0),
        ({"latency": {"constant_ms": 10_000}}, "unknown", "timeout", 1),
    ],
)
async def test_each_behaviour_has_its_verdict(
    simulator: Simulator, behaviour: dict[str, Any], kind: str, code: str, received: int
) -> None:
    behave(simulator, **behaviour)
    async with provider_to(simulator.url, timeout_s=0.5) as provider:
        given = await verdict(provider)
    assert (given.kind, given.code) == (kind, code)
    assert given.latency_us > 0
    assert call(simulator, "GET", "/stats")["received"] == received


async def test_the_latency_of_a_verdict_is_the_carriers(simulator: Simulator) -> None:
    behave(simulator, latency={"constant_ms": 80})
    async with provider_to(simulator.url) as provider:
        given = await verdict(provider)
    assert given.kind == "accepted"
    assert 79_000 <= given.latency_us < 1_000_000


async def test_above_its_throughput_the_carrier_refuses_for_now(simulator: Simulator) -> None:
    behave(simulator, throughput=100)
    async with provider_to(simulator.url) as provider:
        given = await verdicts(provider, [message(n) for n in range(300)])
    kinds = {(v.kind, v.code) for v in given.values()}
    assert kinds == {("accepted", "200"), ("throttled", "throttled")}


async def test_a_carrier_that_is_away_fails_for_now() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with provider_to(f"http://127.0.0.1:{port}") as provider:
        given = await verdict(provider)
    assert (given.kind, given.code, given.latency_us) == ("temporary", "refused", 0)


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (b"200 OK\r\nContent-Length: 4\r\n\r\nnope", "accepted", "200"),
        (b'202 Accepted\r\nContent-Length: 8\r\n\r\n{"id":7}', "accepted", "202"),
        (b"204 No Content\r\n\r\n", "accepted", "204"),
        (b"302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", "temporary", "302"),
        (b"400 Bad Request\r\nContent-Length: 0\r\n\r\n", "permanent", "400"),
        (b"404 Not Found\r\nContent-Length: 13\r\n\r\n<html></html>", "permanent", "404"),
        (b"429 Too Many\r\nContent-Length: 0\r\n\r\n", "throttled", "429"),
        (b'500 Oops\r\nContent-Length: 15\r\n\r\n{"code":"E-17"}', "temporary", "E-17"),
        (b"503 Away\r\nContent-Length: 2\r\n\r\n\xff\xfe", "temporary", "503"),
    ],
)
async def test_the_status_decides_and_the_carriers_code_is_kept(answer: bytes, kind: str, code: str) -> None:
    async def script(body: bytes, writer: asyncio.StreamWriter) -> bytes:
        return b"HTTP/1.1 " + answer

    async with serving(script) as server, provider_to(f"http://127.0.0.1:{server.port}") as provider:
        given = await verdict(provider)
    assert (given.kind, given.code) == (kind, code)


async def test_every_message_has_one_verdict_and_the_carriers_count_agrees(simulator: Simulator) -> None:
    """2,000 messages through every behaviour at once, while it changes."""
    behave(
        simulator,
        error_rates={"temporary": 0.1, "permanent": 0.1, "timeout": 0.02, "reset": 0.05},
        latency={"lognormal": {"median_ms": 5, "sigma": 1}},
        seed=7,
    )
    messages = [message(n) for n in range(2000)]
    async with provider_to(simulator.url, timeout_s=2.0, connections_max=100) as provider:
        first = asyncio.create_task(verdicts(provider, messages[:1000]))
        await asyncio.sleep(0)
        for outage in ("refuse", True, "hang", False):
            await asyncio.to_thread(call, simulator, "PUT", "/behaviour", {"outage": outage})
        given = await first | await verdicts(provider, messages[1000:])
    assert len(given) == 2000
    kinds = {v.kind for v in given.values()}
    assert kinds >= {"accepted", "temporary", "permanent"}
    received = set(call(simulator, "GET", "/received")["ids"])
    assert call(simulator, "GET", "/stats")["duplicates"] == 0
    for message_id, one in given.items():
        if one.kind == "accepted":
            assert message_id in received
        elif one.kind in ("temporary", "permanent"):
            assert message_id not in received


async def test_stopping_gives_what_is_in_flight_its_verdict(simulator: Simulator) -> None:
    behave(simulator, latency={"constant_ms": 200})
    async with provider_to(simulator.url) as provider:
        pending = asyncio.create_task(verdicts(provider, [message(n) for n in range(20)]))
        async with asyncio.timeout(60):
            while await asyncio.to_thread(lambda: call(simulator, "GET", "/stats")["received"]) < 20:
                pass
        await provider.stop()
        given = await pending
    assert {v.kind for v in given.values()} == {"accepted"}


async def test_a_carrier_that_is_killed_and_comes_back() -> None:
    simulator = start_simulator(arguments=["--latency-ms", "10000"])
    port = simulator.url.rpartition(":")[2]
    async with provider_to(simulator.url) as provider:
        pending = asyncio.create_task(verdicts(provider, [message(n) for n in range(10)]))
        async with asyncio.timeout(60):
            while await asyncio.to_thread(lambda: call(simulator, "GET", "/stats")["received"]) < 10:
                pass
        await asyncio.to_thread(simulator.stop)
        assert {v.kind for v in (await pending).values()} == {"unknown"}
        assert (await verdict(provider)).kind == "temporary"
        simulator = await asyncio.to_thread(start_simulator, f"127.0.0.1:{port}")
        try:
            async with asyncio.timeout(60):
                while (await verdict(provider)).kind != "accepted":  # noqa: ASYNC110 - nobody signals it
                    await asyncio.sleep(0.01)
        finally:
            await asyncio.to_thread(simulator.stop)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Directory with a certificate and its key."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", tmp_path / "key", "-out", tmp_path / "cert", "-days", "1", "-subj", "/CN=localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return tmp_path


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:80", "ftp://host", "http://", "http://host:99999", "http://host:x", "http://u:p@host",
     "http://host/?q=1", "http://ho st", "http://hóst", "http://host/a\r\nX: y"],
)  # fmt: skip
async def test_a_url_that_cannot_be_used_is_named(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^providers\.carrier\.url must be http://HOST"):
        build(SimulatedSettings(name="carrier", url=url), Sink(), Problems())


async def test_over_tls_the_carriers_name_is_checked(certificate: Path) -> None:
    """A certificate nobody vouches for: nothing is sent."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "cert", certificate / "key")
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    async with provider_to(f"https://127.0.0.1:{port}") as provider:
        given = await verdict(provider)
    server.close()
    assert (given.kind, given.code) == ("temporary", "tls")
