"""The simulator's receipts, over HTTP and SMPP, by real sockets."""

from __future__ import annotations

import asyncio
import json
import queue
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any

import pytest

from engine.providers.smpp.body import ShortMessage, decode_message_id
from engine.providers.smpp.codes import Command, CommandStatus, Tag
from supervisor.simulator import Simulator, start_simulator
from supervisor.simulator import outbox as simulator_outbox
from supervisor.simulator import smpp as simulator_smpp
from supervisor.simulator.behaviour import Behaviour, Latency, Receipts
from supervisor.simulator.draws import BEFORE, ReceiptPlan
from supervisor.simulator.outbox import Outbox
from supervisor.simulator.provider import SimulatedProvider
from supervisor.simulator.receipts import Ended, Receipt, Sent
from supervisor.simulator.smpp import listen_smpp
from supervisor.simulator.smpp_sessions import Sessions
from tests.supervisor.simulator.http_client import Client, ask, send_of
from tests.supervisor.simulator.smpp_client import SmppClient, bound, message_of
from tests.supervisor.simulator.test_smpp import PLAIN, behave


class Engine:
    """Takes receipts over HTTP; answers with the statuses in `statuses`, then with 200."""

    def __init__(self, port: int = 0) -> None:
        self.receipts: queue.Queue[dict[str, Any]] = queue.Queue()
        self.statuses: list[int] = []
        self.paths: set[str] = set()
        # While it is not set, nothing is answered.
        self.answers = threading.Event()
        self.answers.set()
        taking = self

        class Request(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                taking.paths.add(self.path)
                status = taking.statuses.pop(0) if taking.statuses else 200
                if status == 200:
                    taking.receipts.put(json.loads(body))
                taking.answers.wait(20)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Request)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/receipts/sim?token=a"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self._thread.start()

    def next(self) -> dict[str, Any]:
        return self.receipts.get(timeout=20)

    def stop(self) -> None:
        self.answers.set()
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def running() -> Iterator[Simulator]:
    simulator = start_simulator(smpp_listen="127.0.0.1:0")
    yield simulator
    simulator.stop()


@pytest.fixture
def simulator(running: Simulator) -> Simulator:
    behave(running, PLAIN)
    assert ask(running, "POST", "/reset").status == 200
    return running


def send(simulator: Simulator, number: int = 1) -> Any:
    answer = ask(simulator, "POST", "/send", send_of(number))
    assert answer.status == 200
    return answer.json["id"]


def counted(simulator: Simulator, **wanted: int) -> dict[str, int]:
    """What the stats say of receipts, as soon as they say `wanted`."""
    deadline = time.monotonic() + 60
    while True:
        said: dict[str, int] = ask(simulator, "GET", "/stats?detail=1").json["receipts"]
        if said.items() >= wanted.items():
            return said
        assert time.monotonic() < deadline, said


# -- over HTTP


def test_a_receipt_names_the_send_by_both_ids(simulator: Simulator, engine: Engine) -> None:
    behave(simulator, {"receipts": {"url": engine.url}})
    given = send(simulator)
    assert engine.next() == {
        "id": given, "message_id": send_of(1)["id"], "to": "+98", "status": "delivered", "error": "",
    }  # fmt: skip
    assert engine.paths == {"/receipts/sim?token=a"}
    assert counted(simulator, sent=1) == {"pending": 0, "sent": 1, "retried": 0, "failed": 0, "dropped": 0}


def test_none_are_sent_unless_asked_for(simulator: Simulator, engine: Engine) -> None:
    send(simulator)
    behave(simulator, {"receipts": {}})  # those of HTTP need an address
    send(simulator)
    behave(simulator, {"receipts": {"url": engine.url}})
    send(simulator, 3)
    assert engine.next()["message_id"] == send_of(3)["id"]
    assert counted(simulator, sent=1)["pending"] == 0


def test_a_message_that_does_not_arrive_says_why(simulator: Simulator, engine: Engine) -> None:
    behave(simulator, {"receipts": {"url": engine.url, "undelivered": 1}})
    send(simulator)
    receipt = engine.next()
    assert (receipt["status"], receipt["error"]) == ("undelivered", "069")


def test_a_receipt_may_come_twice_and_not_yet_before(simulator: Simulator, engine: Engine) -> None:
    # Apart by a delay, for they travel by connections of their own.
    delay = {"constant_ms": 30}
    behave(simulator, {"receipts": {"url": engine.url, "pending": 1, "duplicate": 1, "delay": delay}})
    given = send(simulator)
    receipts = [engine.next() for _ in range(3)]
    assert [receipt["status"] for receipt in receipts] == ["pending", "delivered", "delivered"]
    assert {receipt["id"] for receipt in receipts} == {given}


@pytest.mark.parametrize("id_form", ["same", "hex", "decimal", "upper", "leading_zeros"])
def test_the_id_of_a_receipt_is_written_another_way(
    simulator: Simulator, engine: Engine, id_form: str
) -> None:
    behave(simulator, {"receipts": {"url": engine.url, "id_form": id_form}})
    given, receipt = send(simulator), engine.next()["id"]
    wanted: dict[str, Callable[[], str]] = {
        "same": lambda: given,
        "hex": lambda: f"{int(given):x}",
        "decimal": lambda: str(int(given, 16)),
        "upper": lambda: given.upper(),
        "leading_zeros": lambda: given.zfill(20),
    }
    assert receipt == wanted[id_form]()
    assert (receipt == given) == (id_form == "same")


def test_a_receipt_takes_its_time_from_the_answer(simulator: Simulator, engine: Engine) -> None:
    receipts = {"url": engine.url, "delay": {"constant_ms": 80}}
    behave(simulator, {"latency": {"constant_ms": 40}, "receipts": receipts})
    start = time.monotonic()
    send(simulator)
    engine.next()
    assert time.monotonic() - start >= 0.119


def test_a_receipt_may_be_there_before_the_answer(simulator: Simulator, engine: Engine) -> None:
    behave(simulator, {"receipts": {"url": engine.url, "before_response": 1, "duplicate": 1}})
    given = send(simulator)
    assert engine.receipts.get_nowait()["id"] == given
    assert engine.next()["id"] == given  # again, behind the answer


def test_an_answer_does_not_wait_for_ever_for_its_receipt(simulator: Simulator, engine: Engine) -> None:
    behave(simulator, {"receipts": {"url": engine.url, "before_response": 1}})
    engine.answers.clear()
    with Client(simulator) as client:
        client.write("POST", "/send", json.dumps(send_of(1)).encode())
        given = engine.next()["id"]
        assert ask(simulator, "GET", "/stats").json["received"] == 1  # others do not wait
        assert client.read().json["id"] == given


@pytest.mark.parametrize("fate", ["timeout", "reset"])
def test_a_send_whose_answer_is_lost_has_its_receipt(simulator: Simulator, engine: Engine, fate: str) -> None:
    behave(simulator, {"error_rates": {fate: 1}, "receipts": {"url": engine.url, "before_response": 0.5}})
    with Client(simulator) as client:
        for number in range(10):
            if fate == "timeout" or number == 0:
                client.write("POST", "/send", json.dumps(send_of(number)).encode())
        wanted = 10 if fate == "timeout" else 1
        assert {engine.next()["message_id"] for _ in range(wanted)} == {
            send_of(number)["id"] for number in range(wanted)
        }


def test_what_was_refused_has_no_receipt(simulator: Simulator, engine: Engine) -> None:
    behave(simulator, {"receipts": {"url": engine.url}, "error_rates": {"permanent": 1}})
    assert ask(simulator, "POST", "/send", send_of(1)).status == 422
    behave(simulator, {"error_rates": {"permanent": 0}})
    send(simulator, 2)
    assert engine.next()["message_id"] == send_of(2)["id"]
    assert counted(simulator, sent=1)["pending"] == 0


def test_a_receipt_that_is_not_taken_comes_again(simulator: Simulator, engine: Engine) -> None:
    engine.statuses = [503, 404]
    behave(simulator, {"receipts": {"url": engine.url}})
    given = send(simulator)
    assert engine.next()["id"] == given
    assert counted(simulator, sent=1) == {"pending": 0, "sent": 1, "retried": 2, "failed": 0, "dropped": 0}


def test_receipts_wait_for_an_engine_that_is_away(simulator: Simulator) -> None:
    gone = Engine()
    gone.stop()
    behave(simulator, {"receipts": {"url": gone.url}})
    given = send(simulator)
    assert counted(simulator, retried=1)["pending"] == 1
    back = Engine(gone.port)
    try:
        assert back.next()["id"] == given
    finally:
        back.stop()


def test_a_reset_forgets_receipts(simulator: Simulator, engine: Engine) -> None:
    behave(simulator, {"receipts": {"url": engine.url, "delay": {"constant_ms": 100}}})
    send(simulator)
    assert counted(simulator)["pending"] == 1
    ask(simulator, "POST", "/reset")
    assert counted(simulator)["pending"] == 0
    send(simulator, 2)
    assert engine.next()["message_id"] == send_of(2)["id"]
    assert counted(simulator, sent=1)["pending"] == 0


class Refusing:
    """A way by which nothing arrives."""

    def __init__(self, ended: Ended) -> None:
        self.tries = 0
        self.exhausted = asyncio.Event()
        self._ended = ended

    def take(self, receipt: Receipt, then: Callable[[], None] | None = None) -> None:
        self.tries += 1
        self._ended(receipt, "again")
        if self.tries == simulator_outbox.TRIES_MAX:
            self.exhausted.set()

    def clear(self) -> None:
        pass


async def test_a_receipt_is_given_up_after_some_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulator_outbox, "PAUSE_S", 0.001)
    outbox = Outbox()
    way = Refusing(outbox.ended)
    outbox.use(http=way, smpp=way)
    outbox.post(0.0, Receipt(Sent("m", "a", "b"), "1", "delivered", 0.0, 0.0))
    await asyncio.wait_for(way.exhausted.wait(), 60)
    assert outbox.stats() == {
        "pending": 0, "sent": 0, "retried": simulator_outbox.TRIES_MAX - 1, "failed": 1, "dropped": 0,
    }  # fmt: skip


async def test_receipts_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulator_outbox, "PENDING_MAX", 3)
    outbox = Outbox()
    for _ in range(5):
        outbox.post(time.monotonic() + 60, Receipt(Sent("m", "a", "b"), "1", "delivered", 0.0, 0.0))
    told: list[int] = []
    outbox.post_now(Receipt(Sent("m", "a", "b"), "1", "delivered", 0.0, 0.0), lambda: told.append(1))
    assert (outbox.stats()["pending"], outbox.stats()["dropped"], told) == (3, 3, [1])
    outbox.reset()


# -- over SMPP


def submitted(client: SmppClient, message: ShortMessage) -> str:
    """The carrier's id of a message that it took."""
    client.submit(message)
    answer = client.read()
    assert (answer.command_id, answer.status) == (Command.submit_sm_resp, 0)
    return decode_message_id(answer.body)


def text_of(receipt: ShortMessage) -> dict[str, str]:
    """The fields of a receipt's text (SMPP 3.4, appendix B)."""
    found = re.fullmatch(
        r"id:(?P<id>\S+) sub:001 dlvrd:(?P<dlvrd>\d{3}) submit date:\d{10} done date:\d{10} "
        r"stat:(?P<stat>[A-Z]{7}) err:(?P<err>\d{3}) text:",
        receipt.short_message.decode(),
    )
    assert found, receipt.short_message
    return found.groupdict()


@pytest.mark.parametrize(
    ("behaviour", "esm_class", "text", "state", "error"),
    [
        ({}, 0x04, {"dlvrd": "001", "stat": "DELIVRD", "err": "000"}, b"\2", b"\3\0\0"),
        ({"undelivered": 1}, 0x04, {"dlvrd": "000", "stat": "UNDELIV", "err": "069"}, b"\5", b"\3\0\x45"),
        ({"pending": 1}, 0x20, {"dlvrd": "000", "stat": "ENROUTE", "err": "000"}, b"\1", b"\3\0\0"),
    ],
)
@pytest.mark.parametrize("form", ["text", "tlv", "both"])
def test_a_receipt_is_a_deliver_sm_back_to_the_sender(
    simulator: Simulator, form: str, behaviour: dict[str, object], esm_class: int, text: dict[str, str],
    state: bytes, error: bytes,
) -> None:  # fmt: skip
    behave(simulator, {"receipts": behaviour, "smpp": {"receipt_form": form}})
    with bound(simulator) as client:
        given = submitted(client, message_of("m"))
        receipt = client.receipt()
        assert (receipt.source, receipt.source_ton, receipt.source_npi) == ("98912", 1, 1)
        assert (receipt.destination, receipt.destination_ton, receipt.destination_npi) == ("Demo", 5, 0)
        assert receipt.esm_class == esm_class
        if form == "tlv":
            assert receipt.short_message == b""
        else:
            assert text_of(receipt) == {"id": given, **text}
        assert receipt.parameters == ({} if form == "text" else {
            Tag.receipted_message_id: given.encode() + b"\0", Tag.message_state: state,
            Tag.network_error_code: error,
        })  # fmt: skip
        if esm_class == 0x20:
            assert client.receipt().esm_class == 0x04  # and then the last word
    counted(simulator, sent=1 + (esm_class == 0x20), pending=0)


@pytest.mark.parametrize(
    ("registered_delivery", "undelivered", "comes"),
    [(0, 1, False), (1, 0, True), (1, 1, True), (2, 0, False), (2, 1, True), (0x11, 0, True)],
)
def test_receipts_come_as_the_submit_asked(
    simulator: Simulator, registered_delivery: int, undelivered: int, comes: bool
) -> None:
    behave(simulator, {"receipts": {"undelivered": undelivered}})
    with bound(simulator, Command.bind_transmitter) as transmitter:
        first = submitted(transmitter, message_of("m", registered_delivery=registered_delivery))
        last = submitted(transmitter, message_of("last"))
    wanted = [first, last] if comes else [last]
    with bound(simulator, Command.bind_receiver) as receiver:
        assert [text_of(receiver.receipt())["id"] for _ in wanted] == wanted
        counted(simulator, sent=len(wanted), pending=0)


def test_a_receipt_may_come_before_the_answer_on_the_same_session(simulator: Simulator) -> None:
    behave(simulator, {"receipts": {"before_response": 1, "id_form": "hex"}})
    with bound(simulator) as client:
        sequence = client.submit(message_of("m"))
        receipt, answer = client.receipt(), client.read()
        assert (answer.command_id, answer.sequence) == (Command.submit_sm_resp, sequence)
        assert int(text_of(receipt)["id"], 16) == int(decode_message_id(answer.body))


def test_receipts_come_over_the_receiver_of_the_same_name(simulator: Simulator) -> None:
    behave(simulator, {"receipts": {}})
    transmitter = bound(simulator, Command.bind_transmitter)
    other = bound(simulator, Command.bind_receiver, "other")
    with transmitter, other:
        given = [submitted(transmitter, message_of(str(n))) for n in range(4)]
        assert counted(simulator)["pending"] == 4  # until somebody may have them
        with bound(simulator, Command.bind_receiver) as receiver:
            assert [text_of(receiver.receipt())["id"] for _ in given] == given
        assert transmitter.is_alive()
        assert other.is_alive()
    counted(simulator, sent=4, pending=0)


def test_sessions_of_one_name_share_the_receipts(simulator: Simulator) -> None:
    behave(simulator, {"receipts": {"delay": {"constant_ms": 50}}})
    with bound(simulator) as one, bound(simulator) as two:
        given = {submitted(one, message_of(str(n))) for n in range(10)}
        assert {text_of(client.receipt())["id"] for client in (one, two) for _ in range(5)} == given


@pytest.mark.parametrize("status", [CommandStatus.ESME_RX_T_APPN, CommandStatus.ESME_RMSGQFUL])
def test_a_receipt_that_is_refused_comes_again(simulator: Simulator, status: CommandStatus) -> None:
    behave(simulator, {"receipts": {}})
    with bound(simulator) as client:
        given = submitted(client, message_of("m"))
        assert text_of(client.receipt(status))["id"] == given
        assert text_of(client.receipt())["id"] == given
        said = counted(simulator, sent=1)
        assert (said["retried"], said["pending"]) == (1, 0)


def test_a_receipt_whose_session_is_gone_comes_over_the_next(simulator: Simulator) -> None:
    behave(simulator, {"receipts": {}})
    with bound(simulator, Command.bind_transmitter) as transmitter:
        given = [submitted(transmitter, message_of(str(n))) for n in range(3)]
    with bound(simulator) as client:
        assert [client.read().command_id for _ in given] == [Command.deliver_sm] * 3  # not answered
    with bound(simulator) as client:
        assert [text_of(client.receipt())["id"] for _ in given] == given
    assert counted(simulator, sent=3)["retried"] == 0


def test_a_receipt_to_a_sender_that_is_too_long_has_failed(simulator: Simulator) -> None:
    """An address of 64 octets is read in a submit_sm; a deliver_sm takes 20."""
    behave(simulator, {"receipts": {}})
    body = b"\0\5\0" + b"9" * 40 + b"\0\1\x0198912\0\0\0\0\0\0\1\0\0\0\2hi"
    with bound(simulator) as client:
        assert client.ask(Command.submit_sm, body).status == 0
        counted(simulator, failed=1, pending=0)
        assert client.is_alive()


async def test_a_receipt_that_is_never_answered_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulator_smpp, "ANSWER_S", 0.1)
    outbox = Outbox()
    carrier = SimulatedProvider(Behaviour(receipts=Receipts()), outbox)
    sessions = Sessions(lambda: carrier.behaviour, outbox.ended)
    outbox.use(http=Refusing(outbox.ended), smpp=sessions)
    sessions.start()
    server = await listen_smpp(carrier, sessions, "127.0.0.1", 0)

    def meet() -> list[int]:
        with bound(server.sockets[0].getsockname()[1]) as client:
            submitted(client, message_of("m"))
            first = client.read()
            receipt = client.read()
            assert first.body == receipt.body
            client.write(Command.deliver_sm_resp, b"\0", sequence=receipt.sequence)
            assert client.is_alive()
            return [first.command_id, receipt.command_id]

    try:
        assert await asyncio.to_thread(meet) == [Command.deliver_sm] * 2
        assert outbox.stats()["sent"] == 1
    finally:
        sessions.stop()
        server.close()


# -- what is drawn


def test_receipts_are_drawn_at_their_rates() -> None:
    draws = 20_000
    receipts = Receipts(undelivered=0.2, duplicate=0.1, before_response=0.3, pending=0.4)
    plan = ReceiptPlan(receipts, Random(5))
    seen: Counter[str] = Counter()
    for _ in range(draws):
        planned = plan.draw(1.0)
        times = [after_s for after_s, _ in planned]
        assert times == sorted(times)
        assert all(after_s >= 1.0 for after_s in times[1:])
        states = [state for _, state in planned]
        seen["before"] += times[0] == BEFORE
        seen["pending"] += states[0] == "pending"
        seen["undelivered"] += states[-1] == "undelivered"
        finals = [state for state in states if state != "pending"]
        seen["duplicate"] += len(finals) == 2
        assert len(set(finals)) == 1
    shares = {name: count / draws for name, count in seen.items()}
    wanted = {"before": 0.3, "pending": 0.4, "undelivered": 0.2, "duplicate": 0.1}
    assert shares == pytest.approx(wanted, abs=0.015)  # four standard deviations


def test_receipts_of_a_send_follow_each_other_by_the_delay() -> None:
    receipts = Receipts(delay=Latency(constant_ms=500), pending=1, duplicate=1)
    assert ReceiptPlan(receipts, Random(1)).draw(2.0) == [
        (2.5, "pending"), (3.0, "delivered"), (3.5, "delivered"),
    ]  # fmt: skip
