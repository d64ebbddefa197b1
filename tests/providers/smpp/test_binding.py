"""How the SMPP provider binds, keeps sessions alive, loses them and binds again; real sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.problem_records import ProblemKind
from engine.providers.smpp.codes import ANSWER, Command, CommandStatus
from engine.providers.smpp.pdu import Pdu, Reader, pack
from tests.providers.scripted import until
from tests.providers.sink import Sink
from tests.providers.smpp.scripted_smsc import (
    RECEIPT,
    THROTTLED,
    Peer,
    accept_bind,
    delivery,
    long_message,
    nothing,
    provider_to,
    smsc,
)


def refuse_bind(peer: Peer, pdu: Pdu) -> None:
    peer.answer(pdu, CommandStatus.ESME_RINVPASWD)


async def test_messages_wait_for_the_first_bind_after_the_start() -> None:
    async with smsc() as carrier, provider_to(carrier.port) as (_, verdicts):
        waiting: list[tuple[Peer, Pdu]] = []
        carrier.on_bind = lambda peer, pdu: waiting.append((peer, pdu))
        number = verdicts.submit()
        await until(lambda: bool(waiting))
        assert not verdicts.by_message[number]
        accept_bind(*waiting[0])
        assert (await verdicts.of(number))[0].kind == "accepted"


async def test_they_do_not_wait_for_long_and_later_ones_not_at_all() -> None:
    async with smsc() as carrier:
        carrier.stop_listening()
        async with provider_to(carrier.port, timeout_s=600.0) as (_, verdicts):
            verdict = await verdicts.one()
            assert (verdict.kind, verdict.code) == ("temporary", "not_bound")

            async def refused_at_once() -> bool:
                """In the next turn of the loop."""
                number = verdicts.submit()
                await asyncio.sleep(0)
                return [verdict.code for verdict in verdicts.by_message[number]] == ["not_bound"]

            async with asyncio.timeout(60):
                while not await refused_at_once():  # noqa: ASYNC110 - nobody signals it
                    await asyncio.sleep(0.005)
            await carrier.listen()
            await until(carrier.bound)
            await until(lambda: bool(verdicts.submit()) and carrier.submits != [])


async def test_a_refused_bind_is_tried_again_and_counted() -> None:
    async with smsc() as carrier:
        carrier.on_bind = refuse_bind
        async with provider_to(carrier.port) as (provider, verdicts):
            await until(lambda: len(carrier.binds) >= 3)
            assert provider.counts.binds_refused >= 2
            assert (provider.counts.rebinds, provider.counts.sessions_lost) == (0, 0)
            carrier.on_bind = accept_bind
            await until(lambda: carrier.peer.bind != 0 and not carrier.peer.closed)
            assert (await verdicts.one()).kind == "accepted"


async def test_binds_are_tried_at_longer_and_longer_intervals() -> None:
    async with smsc() as carrier:
        carrier.on_bind = refuse_bind
        begun_s = time.monotonic()
        async with provider_to(carrier.port, reconnect_s=0.05, reconnect_max_s=0.4):
            await until(lambda: len(carrier.binds) >= 6)
    # At least half of 50, 100, 200, 400 and 400 ms; five pauses of 50 ms would be over by then.
    # A slow machine only makes it longer.
    assert time.monotonic() - begun_s >= 0.575


async def test_a_bind_that_is_never_answered_is_given_up() -> None:
    async with smsc() as carrier:
        carrier.on_bind = nothing
        async with provider_to(carrier.port, timeout_s=0.3):
            await until(lambda: len(carrier.binds) >= 2)
            assert carrier.peers[0].closed


async def test_sessions_are_bound_as_the_settings_say() -> None:
    async with smsc() as carrier, provider_to(carrier.port, sessions=3):
        await until(lambda: carrier.bound(3))
        assert {pdu.command_id for pdu in carrier.binds} == {Command.bind_transceiver}
    async with smsc() as carrier, provider_to(carrier.port, bind="transmitter") as (_, verdicts):
        assert (await verdicts.one()).kind == "accepted"
        assert {pdu.command_id for pdu in carrier.binds} == {Command.bind_transmitter}


async def test_a_pair_sends_by_the_transmitter_only() -> None:
    async with smsc() as carrier, provider_to(carrier.port, bind="separate", sessions=2) as (_, verdicts):
        await until(lambda: carrier.bound(4))
        for _ in range(10):
            verdicts.submit()
        assert {verdict.kind for verdict in await verdicts.all()} == {"accepted"}
        assert {peer.bind for peer, _ in carrier.submits} == {Command.bind_transmitter}
        binds = sorted(pdu.command_id for pdu in carrier.binds)
        assert binds == [Command.bind_receiver] * 2 + [Command.bind_transmitter] * 2


async def test_a_receiver_alone_carries_no_messages() -> None:
    def receivers_only(peer: Peer, pdu: Pdu) -> None:
        (accept_bind if pdu.command_id == Command.bind_receiver else refuse_bind)(peer, pdu)

    async with smsc() as carrier:
        carrier.on_bind = receivers_only
        async with provider_to(carrier.port, bind="separate") as (_, verdicts):
            assert (await verdicts.one()).code == "not_bound"


# -- sessions lost


@pytest.mark.parametrize(("how", "code"), [(Peer.close, "closed"), (Peer.reset, "reset")])
async def test_a_lost_session_leaves_what_was_sent_unknown_and_the_rest_unsent(
    how: Callable[[Peer], None], code: str
) -> None:
    async with smsc() as carrier, provider_to(carrier.port, window=2) as (provider, verdicts):
        carrier.on_submit = nothing
        for _ in range(5):
            verdicts.submit()
        await until(lambda: len(carrier.submits) == 2)
        carrier.stop_listening()
        how(carrier.peer)
        found = [(verdict.kind, verdict.code) for verdict in await verdicts.all()]
        # While the first moments after the start are not over, what was not sent may wait.
        assert found[:2] == [("unknown", code)] * 2
        assert set(found[2:]) == {("temporary", "not_bound")}
        assert provider.counts.sessions_lost == 1
        carrier.on_submit = Peer.accept
        await carrier.listen()
        await until(lambda: provider.counts.rebinds == 1)
        assert (await verdicts.one()).kind == "accepted"


async def test_what_a_lost_session_had_not_sent_goes_by_another() -> None:
    async with smsc() as carrier, provider_to(carrier.port, sessions=2, window=2) as (_, verdicts):
        await until(lambda: carrier.bound(2))
        carrier.on_submit = nothing
        for number in range(8):
            verdicts.submit(f"m{number}")
        await until(lambda: len(carrier.submits) == 4)
        carrier.on_submit = Peer.accept
        carrier.stop_listening()
        dead, alive = carrier.peers
        dead.reset()
        for peer, pdu in carrier.submits[:4]:
            if peer is alive:
                peer.accept(pdu)
        kinds = [verdict.kind for verdict in await verdicts.all()]
        assert sorted(kinds) == ["accepted"] * 6 + ["unknown"] * 2


async def test_the_rest_of_a_message_goes_by_another_session() -> None:
    def first_only(peer: Peer, pdu: Pdu) -> None:
        if len(carrier.submits) == 1:
            peer.accept(pdu)
        elif len(carrier.submits) == 2:
            peer.answer(pdu, THROTTLED)
            peer.close()
        else:
            peer.accept(pdu)

    async with smsc() as carrier, provider_to(carrier.port, sessions=2, window=1) as (_, verdicts):
        await until(lambda: carrier.bound(2))
        carrier.on_submit = first_only
        assert (await verdicts.one(long_message(3))).provider_message_id == "id1,id2,id3"
        assert [text[-1:] for text in carrier.texts] == [b"a", b"b", b"b", b"c"]
        assert len({id(peer) for peer, _ in carrier.submits}) == 2


async def test_messages_are_spread_evenly_over_the_sessions() -> None:
    async with smsc() as carrier, provider_to(carrier.port, sessions=4, window=10) as (_, verdicts):
        await until(lambda: carrier.bound(4))
        # An answer from each shows that each is bound here too.
        while len({id(peer) for peer, _ in carrier.submits}) < 4:
            await verdicts.one()
        carrier.submits.clear()
        carrier.on_submit = nothing
        for _ in range(20):
            verdicts.submit()
        await until(lambda: len(carrier.submits) == 20)
        for peer, pdu in carrier.submits:
            peer.accept(pdu)
        await verdicts.all()
        counts = [sum(peer is one for one, _ in carrier.submits) for peer in carrier.peers]
        assert counts == [5] * 4


async def test_garbage_ends_the_session_with_a_word_and_it_is_bound_anew() -> None:
    async with smsc() as carrier, provider_to(carrier.port) as (provider, verdicts):
        carrier.on_submit = lambda peer, pdu: peer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        verdict = await verdicts.one()
        assert (verdict.kind, verdict.code) == ("unknown", "framing")
        await until(lambda: provider.counts.rebinds == 1)
        [nack] = carrier.peers[0].asked(Command.generic_nack)
        assert nack.status == CommandStatus.ESME_RINVCMDLEN
        assert provider.counts.wrong_pdus == 1
        [noted] = verdicts.problems.collect()
        assert (noted.kind, noted.samples[0].sample[:12]) == (ProblemKind.protocol_broken, "HTTP/1.1 400")
        carrier.on_submit = Peer.accept
        assert (await verdicts.one()).kind == "accepted"


async def test_a_carrier_that_asks_to_unbind_is_answered_when_its_answers_are_there() -> None:
    async with smsc() as carrier, provider_to(carrier.port, window=2) as (_, verdicts):
        carrier.on_submit = nothing
        for _ in range(3):
            verdicts.submit()
        await until(lambda: len(carrier.submits) == 2)
        leaving = carrier.peer
        sequence = leaving.ask(Command.unbind)
        later = leaving.ask(Command.enquire_link)
        await until(lambda: bool(leaving.answers_to(later)))
        assert not leaving.answers_to(sequence)
        carrier.on_submit = Peer.accept
        for peer, pdu in carrier.submits:
            peer.accept(pdu)
        await until(lambda: leaving.closed)
        [answer] = leaving.answers_to(sequence)
        assert (answer.command_id, answer.status) == (Command.unbind_resp, 0)
        # The third was never sent on it, and may wait for the next: or be refused, and tried again.
        first, second, third = await verdicts.all()
        assert first.kind == second.kind == "accepted"
        assert third.kind in ("accepted", "temporary")
        await until(lambda: len(carrier.binds) == 2)


async def test_a_carrier_that_asks_to_unbind_and_owes_answers_is_left_after_a_second() -> None:
    async with smsc() as carrier, provider_to(carrier.port) as (_, verdicts):
        carrier.on_submit = nothing
        number = verdicts.submit()
        await until(lambda: bool(carrier.submits))
        sequence = carrier.peer.ask(Command.unbind)
        [verdict] = await verdicts.of(number)
        assert (verdict.kind, verdict.code) == ("unknown", "unbound")
        await until(lambda: len(carrier.peers[0].answers_to(sequence)) == 1)


# -- alive or not


async def test_an_idle_session_is_asked_whether_it_lives() -> None:
    async with smsc() as carrier, provider_to(carrier.port, enquire_link_s=0.1) as (_, verdicts):
        await until(lambda: len(carrier.peer.asked(Command.enquire_link)) >= 3 if carrier.peers else False)
        assert len(carrier.peers) == 1
        assert (await verdicts.one()).kind == "accepted"


async def test_a_session_that_does_not_answer_is_given_up() -> None:
    async with smsc() as carrier:
        carrier.on_enquire_link = nothing
        async with provider_to(carrier.port, enquire_link_s=0.1, timeout_s=0.3):
            await until(lambda: len(carrier.binds) >= 2)
            assert len(carrier.peers[0].asked(Command.enquire_link)) == 1


async def test_the_carriers_own_requests_are_answered() -> None:
    async with smsc() as carrier, provider_to(carrier.port) as (provider, verdicts):
        await verdicts.one()
        peer = carrier.peer
        enquiry = peer.ask(Command.enquire_link)
        strange = peer.ask(0x0000_0ABC, b"what")
        query = peer.ask(Command.query_sm)
        alert = peer.ask(Command.alert_notification, b"\0\0\0\0\0\0")
        last = peer.ask(Command.enquire_link)
        await until(lambda: bool(peer.answers_to(last)))
        answers = [peer.answers_to(sequence) for sequence in (enquiry, strange, query, alert)]
        assert [[(pdu.command_id, pdu.status) for pdu in found] for found in answers] == [
            [(Command.enquire_link_resp, 0)],
            [(Command.generic_nack, CommandStatus.ESME_RINVCMDID)],
            [(Command.generic_nack, CommandStatus.ESME_RINVCMDID)],
            [],
        ]
        assert provider.counts.unknown_commands == 2
        assert (await verdicts.one()).kind == "accepted"


async def test_a_carrier_that_does_not_read_does_not_make_this_process_grow() -> None:
    async with smsc() as carrier, provider_to(carrier.port, timeout_s=3.0) as (provider, verdicts):
        await verdicts.one()
        peer = carrier.peer
        peer.transport.pause_reading()
        requests = b"".join(pack(Command.enquire_link, 0, n + 1) for n in range(100_000))
        for _ in range(12):
            peer.write(requests)
        await until(lambda: provider.counts.rebinds == 1)
        assert (await verdicts.one()).kind == "accepted"


async def test_a_frozen_process_reads_what_came_before_it_times_anything_out() -> None:
    """The carrier lives in a thread of its own: it answers while this loop stands still."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            reader = Reader()
            while data := connection.recv(65536):
                for pdu in reader.feed(data):
                    assert isinstance(pdu, Pdu)
                    if pdu.command_id == Command.submit_sm:
                        submitted.set()
                        frozen.wait(10)
                    connection.sendall(pack(pdu.command_id | ANSWER, 0, pdu.sequence, b"x\0"))

    submitted, frozen = threading.Event(), threading.Event()
    thread = threading.Thread(target=serve)
    thread.start()
    with listener:
        async with provider_to(listener.getsockname()[1], timeout_s=0.5) as (_, verdicts):
            number = verdicts.submit()
            await until(submitted.is_set)
            frozen.set()
            time.sleep(0.8)  # noqa: ASYNC251 - frozen
            assert (await verdicts.of(number))[0].kind == "accepted"
    thread.join(10)
    assert not thread.is_alive()


# -- stopping


async def test_a_carrier_that_has_forgotten_the_session_is_bound_anew() -> None:
    async with smsc() as carrier, provider_to(carrier.port) as (provider, verdicts):
        await verdicts.one()
        [forgetful] = carrier.peers

        def script(peer: Peer, submit: Pdu) -> None:
            if peer is forgetful:
                peer.answer(submit, CommandStatus.ESME_RINVBNDSTS)
            else:
                peer.accept(submit)

        carrier.on_submit = script
        assert (await verdicts.one()).kind == "temporary"
        await until(lambda: len(forgetful.asked(Command.unbind)) == 1 and carrier.bound(1))
        await until(lambda: provider.counts.rebinds == 1)
        assert (await verdicts.one()).kind == "accepted"
        assert len(carrier.peers) == 2


async def test_a_receipt_before_the_answer_to_the_bind_is_kept() -> None:
    sink = Sink()
    async with smsc() as carrier:

        def script(peer: Peer, bind: Pdu) -> None:
            peer.ask(Command.deliver_sm, delivery(RECEIPT % ("7F3A", "DELIVRD")))
            accept_bind(peer, bind)

        carrier.on_bind = script
        async with provider_to(carrier.port, sink):
            await until(lambda: bool(carrier.peers) and len(carrier.peer.answers_to(1)) == 1)
            assert [answer.status for answer in carrier.peer.answers_to(1)] == [0]
            assert [receipt.provider_message_id for receipt in sink.receipts] == ["7F3A"]


async def test_stopping_waits_for_answers_unbinds_and_says_what_was_not_sent() -> None:
    async with smsc() as carrier, provider_to(carrier.port, window=1) as (provider, verdicts):
        carrier.on_submit = nothing
        sent, unsent = verdicts.submit("sent"), verdicts.submit("unsent")
        await until(lambda: len(carrier.submits) == 1)
        stopping = asyncio.create_task(provider.stop())
        [verdict] = await verdicts.of(unsent)
        assert (verdict.kind, verdict.code) == ("temporary", "stopped")
        assert not verdicts.by_message[sent]
        carrier.peer.accept(carrier.submits[0][1])
        await stopping
        assert (await verdicts.of(sent))[0].kind == "accepted"
        assert len(carrier.peer.asked(Command.unbind)) == 1
        await until(lambda: carrier.peer.closed)
        assert provider.counts.sessions_lost == 0
        assert (await verdicts.one()).code == "stopped"
        await provider.stop()
        assert len(carrier.peers) == 1


async def test_stopping_ends_within_the_time_out_with_a_verdict_on_every_message() -> None:
    async with (
        smsc() as carrier,
        provider_to(carrier.port, timeout_s=0.5, sessions=2) as (provider, verdicts),
    ):
        carrier.on_submit = nothing
        for _ in range(5):
            verdicts.submit()
        await until(lambda: len(carrier.submits) == 5)
        async with asyncio.timeout(60):
            await provider.stop()
        assert {verdict.kind for verdict in await verdicts.all()} == {"unknown"}


async def test_stopping_before_anything_is_bound_is_quick() -> None:
    async with smsc() as carrier:
        carrier.on_bind = nothing
        async with provider_to(carrier.port, timeout_s=600.0) as (provider, verdicts):
            number = verdicts.submit()
            await until(lambda: bool(carrier.peers))
            async with asyncio.timeout(60):
                await provider.stop()
            assert (await verdicts.of(number))[0].code == "stopped"


# -- TLS


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody but its file vouches for, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = (
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=smsc"
        f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}"
    )
    try:
        subprocess.run(command.split(), check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as e:
        pytest.skip(f"openssl makes no certificate here: {e}")
    return certificate, key


def context_of(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


async def test_tls_to_a_certificate_that_is_trusted(certificate: tuple[Path, Path]) -> None:
    async with (
        smsc(context_of(certificate)) as carrier,
        provider_to(carrier.port, tls=True, tls_ca_file=str(certificate[0])) as (_, verdicts),
    ):
        for _ in range(20):
            verdicts.submit()
        assert {verdict.kind for verdict in await verdicts.all()} == {"accepted"}
        carrier.peer.close()
        await until(lambda: len(carrier.binds) == 2)


async def test_tls_to_a_certificate_that_is_not_trusted_binds_nothing(certificate: tuple[Path, Path]) -> None:
    async with (
        smsc(context_of(certificate)) as carrier,
        provider_to(carrier.port, tls=True) as (_, verdicts),
    ):
        assert (await verdicts.one()).code == "not_bound"
        assert not carrier.binds
