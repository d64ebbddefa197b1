"""The simulator as a process, over real sockets."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Iterator

import pytest

from supervisor.simulator import Simulator, start_simulator
from tests.supervisor.process.running import until
from tests.supervisor.simulator.http_client import Client, ask, send_of


@pytest.fixture(scope="module")
def running() -> Iterator[Simulator]:
    simulator = start_simulator()
    yield simulator
    simulator.stop()


@pytest.fixture
def simulator(running: Simulator) -> Simulator:
    """With its behaviour and counts as at the start."""
    rates = {"temporary": 0, "permanent": 0, "timeout": 0, "reset": 0}
    plain = {"latency": {"constant_ms": 0}, "error_rates": rates, "lost_answers_count": True,
             "throughput": None, "outage": False, "seed": 1}  # fmt: skip
    assert ask(running, "PUT", "/behaviour", plain).status == 200
    assert ask(running, "POST", "/reset").status == 200
    return running


def test_a_send_is_accepted_under_an_id_of_the_carriers(simulator: Simulator) -> None:
    answers = [ask(simulator, "POST", "/send", send_of(1)) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 200]
    assert [answer.json["status"] for answer in answers] == ["accepted", "accepted"]
    assert answers[0].fields["content-type"] == "application/json"
    ids = {answer.json["id"] for answer in answers}
    assert len(ids) == 2
    assert all(isinstance(one, str) and one for one in ids)


def test_counts_tell_sends_from_messages(simulator: Simulator) -> None:
    for number in (1, 2, 1, 3, 1):
        ask(simulator, "POST", "/send", send_of(number))
    assert ask(simulator, "GET", "/stats").json == {"received": 5, "distinct": 3, "duplicates": 2}
    ids = [send_of(number)["id"] for number in (1, 2, 3)]
    assert ask(simulator, "GET", "/received").json == {"ids": ids}
    assert ask(simulator, "GET", "/received?after=1&limit=1").json == {"ids": ids[1:2]}
    assert ask(simulator, "GET", "/received?after=9").json == {"ids": []}
    assert ask(simulator, "GET", "/received?format=lines").body.decode().split() == ids
    assert ask(simulator, "GET", "/received?duplicates=1").json == {"duplicates": {ids[0]: 3}}
    assert ask(simulator, "POST", "/reset").json == {"received": 0, "distinct": 0, "duplicates": 0}
    assert ask(simulator, "GET", "/received").json == {"ids": []}


def test_only_what_the_carrier_took_is_counted(simulator: Simulator) -> None:
    ask(simulator, "PUT", "/behaviour", {"error_rates": {"temporary": 0.5, "permanent": 0.5}})
    statuses = {ask(simulator, "POST", "/send", send_of(n)).status for n in range(40)}
    assert statuses == {503, 422}
    assert ask(simulator, "GET", "/stats").json == {"received": 0, "distinct": 0, "duplicates": 0}
    fates = ask(simulator, "GET", "/stats?detail=1").json["fates"]
    assert fates["temporary"] + fates["permanent"] == 40


def test_errors_carry_their_code(simulator: Simulator) -> None:
    for behaviour, status, code in (
        ({"error_rates": {"temporary": 1}}, 503, "temporary"),
        ({"error_rates": {"temporary": 0, "permanent": 1}}, 422, "rejected"),
        ({"error_rates": {"permanent": 0}, "outage": True}, 503, "outage"),
    ):
        ask(simulator, "PUT", "/behaviour", behaviour)
        answer = ask(simulator, "POST", "/send", send_of(1))
        assert (answer.status, answer.json) == (status, {"status": "error", "code": code})


def test_above_the_throughput_a_send_is_told_when_to_come_back(simulator: Simulator) -> None:
    ask(simulator, "PUT", "/behaviour", {"throughput": 1})
    answers = [ask(simulator, "POST", "/send", send_of(n)) for n in range(3)]
    assert [answer.status for answer in answers] == [200, 429, 429]
    assert answers[1].json["code"] == "throttled"
    assert answers[1].fields["retry-after"] == "1"


def test_answers_take_the_latency_set_and_a_change_holds_at_once(simulator: Simulator) -> None:
    ask(simulator, "PUT", "/behaviour", {"latency": {"constant_ms": 60_000}})
    with Client(simulator) as slow, Client(simulator) as quick:
        slow.write("POST", "/send", json.dumps(send_of(1)).encode())
        until(lambda: ask(simulator, "GET", "/stats").json["received"] == 1)
        ask(simulator, "PUT", "/behaviour", {"latency": {"constant_ms": 0}})
        quick.write("POST", "/send", json.dumps(send_of(2)).encode())
        # It came later and is answered; the one before keeps the time it was given.
        assert quick.read().status == 200
        assert not select.select([slow.socket], [], [], 0)[0]


def test_no_answer_comes_before_its_latency(simulator: Simulator) -> None:
    ask(simulator, "PUT", "/behaviour", {"latency": {"constant_ms": 60}})
    with Client(simulator) as client:
        start = time.monotonic()
        client.write("POST", "/send", json.dumps(send_of(1)).encode())
        assert client.read().status == 200
        # The least it may take, and no most: however slow the machine is, this holds.
        assert (time.monotonic() - start) * 1000 >= 59


@pytest.mark.parametrize("fate", ["reset", "refuse"])
def test_a_connection_ended_without_an_answer(simulator: Simulator, fate: str) -> None:
    behaviour = {"outage": "refuse"} if fate == "refuse" else {"error_rates": {"reset": 1}}
    ask(simulator, "PUT", "/behaviour", behaviour)
    with Client(simulator) as client:
        client.write("POST", "/send", json.dumps(send_of(1)).encode())
        with pytest.raises(
            ConnectionResetError, match="closed without" if fate == "refuse" else "reset by peer"
        ):
            client.read()
    assert ask(simulator, "GET", "/stats").json["received"] == (1 if fate == "reset" else 0)


def test_pipelined_requests_are_answered_in_order_though_the_first_is_slow(simulator: Simulator) -> None:
    ask(simulator, "PUT", "/behaviour", {"latency": {"quantiles": [[0, 1], [1, 60]]}})
    with Client(simulator) as client:
        for number in range(50):
            client.write("POST", "/send", json.dumps(send_of(number)).encode())
        client.write("GET", "/stats")
        ids = [client.read().json["id"] for _ in range(50)]
        assert ids == sorted(ids)  # given out in order of arrival
        assert client.read().json["received"] == 50


def test_an_answer_that_could_go_at_once_waits_for_the_one_before(simulator: Simulator) -> None:
    ask(simulator, "PUT", "/behaviour", {"latency": {"constant_ms": 300}})
    with Client(simulator) as client:
        client.write("POST", "/send", json.dumps(send_of(1)).encode())
        until(lambda: ask(simulator, "GET", "/stats").json["received"] == 1)
        ask(simulator, "PUT", "/behaviour", {"latency": {"constant_ms": 0}})
        client.write("POST", "/send", json.dumps(send_of(2)).encode())
        ids = [client.read().json["id"] for _ in range(2)]
        assert ids == sorted(ids)


def test_a_request_may_come_in_pieces(simulator: Simulator) -> None:
    body = json.dumps(send_of(1)).encode()
    wire = b"POST /send HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with Client(simulator) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(wire), 7):
            client.socket.sendall(wire[start : start + 7])
            time.sleep(0.001)  # so that they arrive as pieces
        assert client.read().status == 200


def test_a_connection_that_does_not_stay_is_closed_after_its_answer(simulator: Simulator) -> None:
    ask(simulator, "POST", "/send", send_of(1))
    for path in ("/stats", "/received"):
        with Client(simulator) as client:
            client.write("GET", path, version="1.0")
            answer = client.read()
            assert answer.status == 200
            assert "transfer-encoding" not in answer.fields
            assert client.stream.read() == b""


def fill(client: Client, total: int, id_suffix: str = "") -> None:
    head = b"POST /send HTTP/1.1\r\nContent-Length: %d\r\n\r\n"
    for start in range(0, total, 1000):
        sends = [send_of(n) for n in range(start, start + 1000)]
        bodies = [json.dumps({**send, "id": f"{send['id']}{id_suffix}"}).encode() for send in sends]
        client.socket.sendall(b"".join(head % len(body) + body for body in bodies))
        for _ in bodies:
            assert client.read().status == 200


def test_a_long_list_comes_whole(simulator: Simulator) -> None:
    total = 30_000
    with Client(simulator) as client:
        fill(client, total)
        client.write("GET", "/received?format=lines")
        client.write("GET", "/received")
        # Meanwhile nobody else waits for this reader.
        assert ask(simulator, "GET", "/stats").json["distinct"] == total
        lines = client.read().body.decode().split()
        assert lines == [send_of(n)["id"] for n in range(total)]
        assert client.read().json["ids"] == lines


def test_a_list_is_made_at_the_readers_pace(simulator: Simulator) -> None:
    """What a slow reader has not come to is not kept for it: it is gone with a reset."""
    total = 60_000  # with long ids more than the kernel buffers for a connection
    with Client(simulator) as filling, Client(simulator, receive_bytes=4096) as slow:
        fill(filling, total, id_suffix="x" * 90)
        slow.write("GET", "/received?format=lines")
        assert ask(simulator, "POST", "/reset").status == 200
        assert 0 < len(slow.read().body.split()) < total


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "field"),
    [
        ("GET", "/nothing", b"", 404, None),
        ("DELETE", "/stats", b"", 405, None),
        ("GET", "/send", b"", 405, None),
        ("POST", "/send", b"", 400, None),
        ("POST", "/send", b"{", 400, None),
        ("POST", "/send", b'{"id":"\xff"}', 400, None),
        ("POST", "/send", b'{"id":"1","to":"+98"}', 400, None),
        ("POST", "/send", b'{"id":1,"to":"+98","text":"hi"}', 400, "id"),
        ("POST", "/send", b'{"id":"","to":"+98","text":"hi"}', 400, "id"),
        ("POST", "/send", b'{"id":"1","to":"+98","text":"hi","segments":0}', 400, "segments"),
        ("GET", "/received?after=-1", b"", 400, "after"),
        ("GET", "/received?limit=x", b"", 400, "limit"),
        ("GET", "/received?format=xml", b"", 400, "format"),
        ("GET", "/stats?details=1", b"", 400, "details"),
        ("PUT", "/behaviour", b"no", 400, None),
        ("PUT", "/behaviour", b'{"latency":{"constant_ms":-1}}', 422, "latency.constant_ms"),
        ("PUT", "/behaviour", b'{"error_rates":{"tempory":1}}', 422, "error_rates.tempory"),
        ("POST", "/send", b"x" * ((1 << 20) + 1), 413, None),
    ],
)
def test_a_wrong_request_is_answered_with_a_problem(
    simulator: Simulator, method: str, path: str, body: bytes, status: int, field: str | None
) -> None:
    with Client(simulator) as client:
        client.write(method, path, body)
        answer = client.read()
        assert answer.fields["content-type"] == "application/problem+json"
        problem = answer.json
        assert (answer.status, problem["status"], problem.get("field")) == (status, status, field)
        assert problem["detail"].endswith(".")
        if status != 413:  # the connection goes on
            client.write("GET", "/stats")
            assert client.read().json["received"] == 0


@pytest.mark.parametrize(
    ("wire", "status"), [(b"SSH-2.0\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nX: " + b"x" * 1_000_000, 431)]
)
def test_what_is_not_http_is_refused_and_closed(simulator: Simulator, wire: bytes, status: int) -> None:
    with Client(simulator) as client:
        client.socket.sendall(wire)
        assert client.read().status == status
        assert client.stream.read() == b""


def test_a_refused_change_changes_nothing(simulator: Simulator) -> None:
    before = ask(simulator, "GET", "/behaviour").json
    assert ask(simulator, "PUT", "/behaviour", {"throughput": 5, "error_rates": {"reset": 7}}).status == 422
    assert ask(simulator, "GET", "/behaviour").json == before
    assert ask(simulator, "PUT", "/behaviour", {"throughput": 5}).json == {**before, "throughput": 5.0}
