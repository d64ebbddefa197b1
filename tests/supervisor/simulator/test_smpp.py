"""The simulator's SMPP server as a process, over real sockets."""

from __future__ import annotations

import contextlib
import socket
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from engine.errors import ConfigError
from engine.providers.settings import SmppSettings
from engine.providers.smpp.body import decode_message_id, decode_parameters, decode_short_message
from engine.providers.smpp.codes import Command, CommandStatus, Tag
from engine.providers.smpp.pdu import Pdu, Reader, WrongPdu, pack
from engine.providers.smpp.receipt import ReceiptReader
from supervisor.simulator import Simulator, start_simulator
from supervisor.simulator.malformed import FORMS
from supervisor.simulator.submit import MESSAGE_ID_TAG, identity
from tests.supervisor.process.running import until
from tests.supervisor.simulator.http_client import ask, send_of
from tests.supervisor.simulator.smpp_client import SmppClient, bound, message_of

PLAIN = {
    "latency": {"constant_ms": 0}, "error_rates": {"temporary": 0, "permanent": 0, "timeout": 0, "reset": 0},
    "lost_answers_count": True, "throughput": None, "throughput_unit": "sends", "outage": False, "seed": 1,
    "receipts": None,
    "smpp": {"system_id": None, "password": None, "window": None, "malformed": 0, "disconnect_every": None,
             "sessions_max": None, "receipt_form": "both"},
}  # fmt: skip


@pytest.fixture(scope="module")
def running() -> Iterator[Simulator]:
    simulator = start_simulator(smpp_listen="127.0.0.1:0")
    yield simulator
    simulator.stop()


@pytest.fixture
def simulator(running: Simulator) -> Simulator:
    """With its behaviour and counts as at the start."""
    behave(running, PLAIN)
    assert ask(running, "POST", "/reset").status == 200
    return running


def behave(simulator: Simulator, change: dict[str, object]) -> None:
    answer = ask(simulator, "PUT", "/behaviour", change)
    assert answer.status == 200, answer.body


def stats(simulator: Simulator) -> dict[str, object]:
    return ask(simulator, "GET", "/stats").json  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "command", [Command.bind_transmitter, Command.bind_receiver, Command.bind_transceiver]
)
def test_a_session_from_bind_to_unbind(simulator: Simulator, command: Command) -> None:
    with SmppClient(simulator) as client:
        answer = client.bind(command)
        assert answer.status == 0
        parameters = decode_parameters(answer.body.partition(b"\0")[2])
        assert parameters[Tag.sc_interface_version] == b"\x34"
        assert client.is_alive()
        sessions = ask(simulator, "GET", "/stats?detail=1").json["smpp"]
        assert (sessions["bound"], sessions["receiving"]) == (1, int(command != Command.bind_transmitter))
        assert client.bind(command).status == CommandStatus.ESME_RALYBND
        assert client.ask(Command.unbind).status == 0
        with pytest.raises(ConnectionResetError):
            client.read()
    sessions = ask(simulator, "GET", "/stats?detail=1").json["smpp"]
    assert (sessions["bound"], sessions["receiving"]) == (0, 0)


def test_who_may_bind(simulator: Simulator) -> None:
    behave(simulator, {"smpp": {"system_id": "demo", "password": "right", "sessions_max": 1}})
    with SmppClient(simulator) as client, SmppClient(simulator) as second:
        assert client.bind(system_id="other").status == CommandStatus.ESME_RINVSYSID
        assert client.bind(password="wrong").status == CommandStatus.ESME_RINVPASWD
        assert client.bind(password="right").status == 0
        assert second.bind(password="right").status == CommandStatus.ESME_RBINDFAIL
        assert client.ask(Command.unbind).status == 0
        with pytest.raises(ConnectionResetError):
            client.read()
        assert second.bind(password="right").status == 0


def test_only_who_is_bound_to_submit_may(simulator: Simulator) -> None:
    with SmppClient(simulator) as unbound, bound(simulator, Command.bind_receiver) as receiver:
        for client in (unbound, receiver):
            client.submit(message_of("a"))
            answer = client.read()
            assert (answer.command_id, answer.status) == (
                Command.submit_sm_resp,
                CommandStatus.ESME_RINVBNDSTS,
            )
    assert stats(simulator)["received"] == 0


def test_a_submit_is_accepted_under_an_id_of_the_carriers_and_counted_by_ours(simulator: Simulator) -> None:
    ids = [str(send_of(number)["id"]) for number in (1, 2, 1)]
    with bound(simulator) as client:
        sequences = [client.submit(message_of(i)) for i in ids]
        answers = [client.read() for _ in ids]
    assert [(a.command_id, a.status, a.sequence) for a in answers] == [
        (Command.submit_sm_resp, 0, sequence) for sequence in sequences
    ]
    given = [decode_message_id(answer.body) for answer in answers]
    assert all(len(one) == 16 for one in given)
    assert len(set(given)) == 3
    assert stats(simulator) == {"received": 3, "distinct": 2, "duplicates": 1}
    ask(simulator, "POST", "/send", send_of(2))  # the same counts for both servers
    assert ask(simulator, "GET", "/received").json == {"ids": ids[:2]}
    assert ask(simulator, "GET", "/received?duplicates=1").json == {"duplicates": {ids[0]: 2, ids[1]: 2}}


def test_a_message_counts_once_however_many_segments_it_has(simulator: Simulator) -> None:
    with bound(simulator) as client:
        for segment in (2, 1, 3, 2):
            client.submit(message_of("long", b"\5\0\3\x07\3%cabc" % segment, esm_class=0x40))
            assert client.read().status == 0
    assert stats(simulator) == {"received": 1, "distinct": 1, "duplicates": 0}
    assert ask(simulator, "GET", "/received").json == {"ids": ["long"]}
    assert ask(simulator, "GET", "/received?further=1").json == {"ids": ["long/2", "long/3"]}
    segments = ask(simulator, "GET", "/stats?detail=1").json["segments"]
    assert segments["received"] == 4
    assert segments["second_max"] == 4
    assert sum(segments["per_second"].values()) == 4
    assert all(int(s) <= segments["now_s"] < int(s) + 120 for s in segments["per_second"])
    assert segments["further"] == {"received": 3, "distinct": 2, "duplicates": 1}


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"parameters": {MESSAGE_ID_TAG: b"m\0"}}, ("m", 1)),
        ({"short_message": b"\5\0\3\xab\2\2abc", "esm_class": 0x40}, ("98912:ab", 2)),
        ({"short_message": b"\6\x08\4\xab\xcd\3\3abc", "esm_class": 0x40}, ("98912:abcd", 3)),
        # Another element first.
        ({"short_message": b"\x0b\5\4\1\2\3\4\0\3\x09\2\1abc", "esm_class": 0x40}, ("98912:09", 1)),
        ({"short_message": b"", "parameters": {Tag.message_payload: b"\5\0\3\xab\2\2a"}, "esm_class": 0x40},
         ("98912:ab", 2)),
        ({"parameters": {Tag.sar_msg_ref_num: b"\1\2", Tag.sar_total_segments: b"\3",
                         Tag.sar_segment_seqnum: b"\2"}}, ("98912:0102", 2)),
        ({"parameters": {Tag.user_message_reference: b"\0\7"}}, ("98912:0007", 1)),
        ({"short_message": b"123456789"}, ("98912:cbf43926", 1)),  # the CRC's check value
        # A header that is none.
        ({"short_message": b"\xff\0", "esm_class": 0x40}, ("98912:d2fdef8d", 1)),
        ({"short_message": b"", "esm_class": 0x40}, ("98912:00000000", 1)),
    ],
)  # fmt: skip
def test_a_submit_is_known_by_its_parameter_or_else_by_its_reference(
    fields: dict[str, object], wanted: tuple[str, int]
) -> None:
    assert identity(message_of(**fields)) == wanted  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("behaviour", "status"),
    [
        ({"error_rates": {"temporary": 1}}, CommandStatus.ESME_RSYSERR),
        ({"error_rates": {"permanent": 1}}, CommandStatus.ESME_RINVDSTADR),
        ({"outage": True}, CommandStatus.ESME_RSYSERR),
    ],
)
def test_errors_are_statuses(
    simulator: Simulator, behaviour: dict[str, object], status: CommandStatus
) -> None:
    with bound(simulator) as client:
        behave(simulator, behaviour)
        client.submit(message_of("a"))
        answer = client.read()
        assert (answer.command_id, answer.status, answer.body) == (Command.submit_sm_resp, status, b"")
        assert client.is_alive()
    assert stats(simulator)["received"] == 0


def test_in_an_outage_nobody_binds(simulator: Simulator) -> None:
    behave(simulator, {"outage": True})
    with SmppClient(simulator) as client:
        assert client.bind().status == CommandStatus.ESME_RSYSERR
        behave(simulator, {"outage": False})
        assert client.bind().status == 0


def test_each_segment_takes_its_share_of_the_throughput(simulator: Simulator) -> None:
    behave(simulator, {"throughput": 1})
    with bound(simulator) as client:
        for _ in range(3):
            client.submit(message_of("a"))
        statuses = [client.read().status for _ in range(3)]
    assert statuses == [0, CommandStatus.ESME_RTHROTTLED, CommandStatus.ESME_RTHROTTLED]


def test_over_http_the_segments_of_a_send_take_theirs_when_so_wished(simulator: Simulator) -> None:
    send = {**send_of(1), "segments": 7}
    behave(simulator, {"throughput": 20})  # the first two fit into a tenth of a second
    assert [ask(simulator, "POST", "/send", send).status for _ in range(2)] == [200, 200]
    behave(simulator, {"throughput_unit": "segments"})
    assert [ask(simulator, "POST", "/send", send).status for _ in range(2)] == [200, 429]
    assert ask(simulator, "GET", "/stats?detail=1").json["segments"]["received"] == 21


def test_an_answer_lost_is_taken_all_the_same_and_the_session_goes_on(simulator: Simulator) -> None:
    behave(simulator, {"error_rates": {"timeout": 1}})
    with bound(simulator) as client:
        client.submit(message_of("a"))
        assert client.is_alive()  # what comes next is its answer
    assert stats(simulator)["received"] == 1


def test_a_reset_takes_the_answers_with_it_that_were_still_due(simulator: Simulator) -> None:
    with bound(simulator) as client:
        behave(simulator, {"latency": {"constant_ms": 30_000}})
        client.submit(message_of("a"))
        assert client.is_alive()
        behave(simulator, {"latency": {"constant_ms": 1}, "error_rates": {"reset": 1}})
        client.submit(message_of("b"))
        with pytest.raises(ConnectionResetError, match="reset by peer"):
            client.read()
    assert ask(simulator, "GET", "/received").json == {"ids": ["a", "b"]}


def test_connections_are_closed_when_it_refuses(simulator: Simulator) -> None:
    with bound(simulator) as client, SmppClient(simulator) as idle:
        assert idle.is_alive()
        behave(simulator, {"outage": "refuse"})
        client.submit(message_of("a"))
        with SmppClient(simulator) as new:
            for one in (client, new):
                with pytest.raises(ConnectionResetError):
                    one.read()
        behave(simulator, {"outage": False})
        assert idle.is_alive()
    assert ask(simulator, "GET", "/stats?detail=1").json["fates"]["refuse"] == 1


def test_nothing_is_answered_while_it_hangs(simulator: Simulator) -> None:
    with bound(simulator) as client:
        behave(simulator, {"outage": "hang"})
        client.write(Command.enquire_link)
        client.submit(message_of("a"))
        until(lambda: ask(simulator, "GET", "/stats?detail=1").json["fates"]["hang"] == 1)
        behave(simulator, {"outage": False})
        assert client.is_alive()  # what comes next is this answer, not those before
    assert stats(simulator)["received"] == 0


def test_beyond_the_window_the_queue_is_full(simulator: Simulator) -> None:
    behave(simulator, {"latency": {"constant_ms": 300}, "smpp": {"window": 2}})
    with bound(simulator) as client, bound(simulator) as other:
        sequences = [client.submit(message_of(str(n))) for n in range(3)]
        other.submit(message_of("other"))  # has a window of its own
        answers = [client.read() for _ in range(3)]
        assert [(a.sequence, a.status) for a in answers] == [
            (sequences[2], CommandStatus.ESME_RMSGQFUL), (sequences[0], 0), (sequences[1], 0),
        ]  # fmt: skip
        assert other.read().status == 0
        client.submit(message_of("again"))
        assert client.read().status == 0
    assert ask(simulator, "GET", "/stats?detail=1").json["fates"]["queue_full"] == 1


def test_answers_go_out_when_they_are_due_whatever_their_order(simulator: Simulator) -> None:
    behave(simulator, {"latency": {"quantiles": [[0, 1], [1, 100]]}})
    with bound(simulator) as client:
        sequences = [client.submit(message_of(str(n))) for n in range(50)]
        answered = [client.read().sequence for _ in sequences]
    assert answered != sequences
    assert sorted(answered) == sequences


def test_answers_take_the_latency_set(simulator: Simulator) -> None:
    behave(simulator, {"latency": {"constant_ms": 60}})
    with bound(simulator) as client:
        start = time.monotonic()
        client.submit(message_of("a"))
        assert client.read().status == 0
        assert (time.monotonic() - start) * 1000 >= 59


def test_a_session_is_cut_after_so_many_pdus(simulator: Simulator) -> None:
    behave(simulator, {"smpp": {"disconnect_every": 3}})
    for _ in range(2):
        with bound(simulator) as client:
            for _ in range(2):
                client.submit(message_of("a"))
                assert client.read().status == 0
            with pytest.raises(ConnectionResetError):
                client.read()


def test_pdus_may_come_in_pieces_and_many_at_once(simulator: Simulator) -> None:
    with bound(simulator) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire = b"".join(pack(Command.enquire_link, 0, 100 + n) for n in range(100))
        for start in range(0, 320, 7):
            client.socket.sendall(wire[start : min(start + 7, 320)])
            time.sleep(0.001)  # so that they arrive as pieces
        client.socket.sendall(wire[320:])
        assert [client.read().sequence for _ in range(100)] == list(range(100, 200))


def test_a_command_that_is_not_known_is_answered_as_such(simulator: Simulator) -> None:
    with bound(simulator) as client:
        for command in (0x0ABC, Command.query_sm):
            sequence = client.write(command)
            answer = client.read()
            assert answer == Pdu(Command.generic_nack, CommandStatus.ESME_RINVCMDID, sequence, b"")
        client.write(0x80000ABC)  # an answer to nothing is passed over
        assert client.is_alive()


def test_a_submit_that_cannot_be_read_is_refused_and_the_session_goes_on(simulator: Simulator) -> None:
    with bound(simulator) as client:
        answer = client.ask(Command.submit_sm, b"\0\1\1989")
        assert answer.status == CommandStatus.ESME_RINVCMDLEN
        assert client.is_alive()


def test_what_is_not_smpp_is_refused_and_closed(simulator: Simulator) -> None:
    with SmppClient(simulator) as client:
        client.socket.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = client.read()
        assert (answer.command_id, answer.status) == (Command.generic_nack, CommandStatus.ESME_RINVCMDLEN)
        with pytest.raises(ConnectionResetError):
            client.read()


def test_malformed_pdus_come_before_answers(simulator: Simulator) -> None:
    behave(simulator, {"smpp": {"malformed": 1}, "seed": 3})
    seen: Counter[bytes] = Counter()
    for _ in range(100):
        with bound(simulator) as client:
            sequence = client.submit(message_of("a"))
            wire, answer = b"", pack(Command.submit_sm_resp, 0, sequence)[4:]
            while answer not in wire:
                wire += client.socket.recv(4096)
        seen[wire[: wire.index(answer) - 4]] += 1
    assert seen.keys() == set(FORMS)


def test_malformed_pdus_are_malformed() -> None:
    read = ReceiptReader(SmppSettings(name="client", host="localhost", system_id="us"))
    for number, form in enumerate(FORMS):
        (pdu,) = Reader().feed(form.ljust(16, b"\0"))
        if number < 2:
            assert isinstance(pdu, WrongPdu)
            assert pdu.fatal
        else:
            assert isinstance(pdu, Pdu)
            if pdu.command_id == Command.deliver_sm:
                with contextlib.suppress(WrongPdu):
                    assert read.read(decode_short_message(pdu.body), 0).receipt is None


def test_the_port_is_announced_only_when_there_is_one(simulator: Simulator) -> None:
    without = start_simulator()
    assert without.smpp_port is None
    without.stop()
    taken = f"127.0.0.1:{simulator.smpp_port}"
    with pytest.raises(ConfigError, match=rf"^--smpp-listen {taken} cannot be listened on: address already"):
        start_simulator(smpp_listen=taken)


async def test_an_independent_client_gets_its_answer_and_its_receipt(simulator: Simulator) -> None:
    smpp34 = pytest.importorskip("smpp34")
    behave(simulator, {"receipts": {"id_form": "decimal"}})
    client = smpp34.Client("127.0.0.1", simulator.smpp_port, "demo", "word", bind_type="TRX")
    session = await client.connect()
    answer = await session.submit_sm(
        "98912", b"hi", source_addr="Demo", registered_delivery=1, tlvs=[smpp34.Tlv(MESSAGE_ID_TAG, b"mine")]
    )
    assert answer.is_success
    receipt = await session.next()
    written = str(int(answer.message_id, 16))
    assert receipt.short_message.startswith(f"id:{written} sub:001 dlvrd:001 submit date:".encode())
    assert (receipt.source_addr, receipt.destination_addr, receipt.esm_class) == ("98912", "Demo", 4)
    values = {tlv.tag: tlv.value for tlv in receipt.tlvs}
    assert values[smpp34.TLV_RECEIPTED_MESSAGE_ID] == written.encode() + b"\0"
    assert values[smpp34.TLV_MESSAGE_STATE] == b"\2"
    await session.unbind()
    assert ask(simulator, "GET", "/received").json == {"ids": ["mine"]}
