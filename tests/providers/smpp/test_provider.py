"""The SMPP provider against a scripted SMSC over real sockets."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.problem_records import ProblemKind
from engine.providers import build
from engine.providers.problems import Problems
from engine.providers.simulated_numbers import SimulatedNumbers
from engine.providers.smpp.body import decode_bind, decode_short_message
from engine.providers.smpp.codes import Command, CommandStatus
from engine.providers.smpp.pdu import Pdu, pack
from engine.providers.smpp.provider import SmppProvider
from tests.providers.scripted import until
from tests.providers.sink import Sink
from tests.providers.smpp.scripted_smsc import (
    QUEUE_FULL,
    THROTTLED,
    Peer,
    long_message,
    message,
    nothing,
    provider_to,
    settings,
    smsc,
)


def by_letter(peer: Peer, pdu: Pdu, statuses: dict[bytes, int]) -> None:
    """Answers a segment of `long_message` by its letter."""
    letter = decode_short_message(pdu.body).short_message[-1:]
    if status := statuses.get(letter, 0):
        peer.answer(pdu, status)
    else:
        peer.accept(pdu, f"id-{letter.decode()}")


async def test_a_message_is_accepted_with_the_carriers_id() -> None:
    async with smsc() as carrier, provider_to(carrier.port) as (provider, verdicts):
        assert provider.name == "carrier"
        verdict = await verdicts.one("Hello")
        assert verdict.kind == "accepted"
        assert (verdict.provider, verdict.provider_message_id) == ("carrier", "id1")
        assert 0 < verdict.latency_us < 5_000_000
        assert carrier.texts == [b"Hello"]
        bind = decode_bind(carrier.binds[0].body)
        assert (bind.system_id, bind.password, bind.interface_version) == ("me", "secret", 0x34)


async def test_the_settings_build_it() -> None:
    provider = build(settings(2775), Sink(), Problems())
    assert isinstance(provider, SimulatedNumbers)
    assert isinstance(provider.inner, SmppProvider)


async def test_answers_find_their_message_in_any_order() -> None:
    async with smsc() as carrier, provider_to(carrier.port) as (_, verdicts):
        carrier.on_submit = nothing
        for number in range(20):
            verdicts.submit(f"m{number}")
        await until(lambda: len(carrier.submits) == 20)
        for peer, pdu in reversed(carrier.submits):
            peer.accept(pdu, decode_short_message(pdu.body).short_message.decode())
        ids = [verdict.provider_message_id for verdict in await verdicts.all()]
        assert ids == [f"m{number}" for number in range(20)]


async def test_answers_twice_or_to_nothing_are_counted_and_change_nothing() -> None:
    def twice(peer: Peer, pdu: Pdu) -> None:
        peer.accept(pdu, "first")
        peer.answer(pdu, CommandStatus.ESME_RINVDSTADR)
        peer.write(pack(Command.submit_sm_resp, 0, 0x7000_0000, b"who\0"))

    async with smsc() as carrier, provider_to(carrier.port) as (provider, verdicts):
        carrier.on_submit = twice
        assert (await verdicts.one()).provider_message_id == "first"
        assert (await verdicts.one()).kind == "accepted"
        await until(lambda: provider.counts.late_responses == 4)
        assert len(await verdicts.all()) == 2
        assert len(carrier.peers) == 1


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (CommandStatus.ESME_RINVDSTADR, "permanent", "ESME_RINVDSTADR 0x0B"),
        (CommandStatus.ESME_RSYSERR, "temporary", "ESME_RSYSERR 0x08"),
        (0x402, "temporary", "0x402"),
    ],
)
async def test_a_refused_message_has_the_status_as_its_code(status: int, kind: str, code: str) -> None:
    async with smsc() as carrier, provider_to(carrier.port) as (_, verdicts):
        carrier.on_submit = lambda peer, pdu: peer.answer(pdu, status)
        verdict = await verdicts.one()
        assert (verdict.kind, verdict.code, verdict.provider_message_id) == (kind, code, "")


@pytest.mark.parametrize("status", [0, CommandStatus.ESME_RINVCMDLEN])
async def test_a_generic_nack_accepts_nothing(status: int) -> None:
    async with smsc() as carrier, provider_to(carrier.port) as (_, verdicts):
        carrier.on_submit = lambda peer, pdu: peer.write(pack(Command.generic_nack, status, pdu.sequence))
        assert (await verdicts.one()).kind == "temporary"


async def test_what_smpp_cannot_carry_is_refused_for_good_without_a_word_to_the_carrier() -> None:
    async with smsc() as carrier, provider_to(carrier.port) as (_, verdicts):
        verdict = await verdicts.one(message(sender="S" * 30))
        assert verdict.kind == "permanent"
        assert verdict.code.startswith("invalid: from")
        assert not carrier.submits


# -- several segments


async def test_all_segments_accepted_gives_their_ids_in_order() -> None:
    async with smsc() as carrier, provider_to(carrier.port) as (_, verdicts):
        carrier.on_submit = nothing
        number = verdicts.submit(long_message(3))
        await until(lambda: len(carrier.submits) == 3)
        for peer, pdu in reversed(carrier.submits):
            by_letter(peer, pdu, {})
        [verdict] = await verdicts.of(number)
        assert (verdict.kind, verdict.provider_message_id) == ("accepted", "id-a,id-b,id-c")


async def test_segments_without_ids_leave_the_message_without_one() -> None:
    async with smsc() as carrier, provider_to(carrier.port) as (_, verdicts):
        carrier.on_submit = lambda peer, pdu: peer.accept(pdu, "")
        verdict = await verdicts.one(long_message(3))
        assert (verdict.kind, verdict.provider_message_id) == ("accepted", "")


@pytest.mark.parametrize("body", [b"", b"\0", b'""\0', b" \0"])
async def test_an_acceptance_without_an_id_is_an_acceptance_and_is_noted(body: bytes) -> None:
    async with smsc() as carrier, provider_to(carrier.port) as (_, verdicts):
        await verdicts.one()
        assert verdicts.problems.collect() == []
        carrier.on_submit = lambda peer, pdu: peer.answer(pdu, 0, body)
        for what, segments in ((message(), 1), (long_message(3), 3)):
            verdict = await verdicts.one(what)
            assert (verdict.kind, verdict.provider_message_id) == ("accepted", "")
            [noted] = verdicts.problems.collect()
            assert (noted.kind, noted.count) == (ProblemKind.answer_unread, segments)
            assert noted.samples[-1].sample.startswith("submit_sm_resp, status 0, without a message_id")


async def test_a_comma_in_an_id_is_written_so_that_the_ids_can_be_told_apart() -> None:
    async with smsc() as carrier, provider_to(carrier.port) as (_, verdicts):
        carrier.on_submit = lambda peer, pdu: peer.accept(pdu, "1,2")
        assert (await verdicts.one(long_message(2))).provider_message_id == "1%2C2,1%2C2"
        assert (await verdicts.one()).provider_message_id == "1%2C2"


async def test_after_a_refused_segment_the_rest_is_not_sent() -> None:
    async with smsc() as carrier, provider_to(carrier.port, window=1) as (_, verdicts):
        carrier.on_submit = lambda peer, pdu: by_letter(peer, pdu, {b"b": CommandStatus.ESME_RINVDSTADR})
        verdict = await verdicts.one(long_message(4))
        assert (verdict.kind, verdict.code) == ("permanent", "ESME_RINVDSTADR 0x0B")
        assert verdict.provider_message_id == ""
        assert (await verdicts.one("next")).kind == "accepted"
        assert [text[-1:] for text in carrier.texts] == [b"a", b"b", b"t"]


@pytest.mark.parametrize(
    ("statuses", "kind"),
    [
        ({b"a": CommandStatus.ESME_RSYSERR, b"b": CommandStatus.ESME_RINVDSTADR}, "permanent"),
        ({b"a": CommandStatus.ESME_RSYSERR}, "temporary"),
        ({b"b": CommandStatus.ESME_RSYSERR, b"c": THROTTLED}, "temporary"),
    ],
)
async def test_the_worst_segment_decides(statuses: dict[bytes, int], kind: str) -> None:
    async with smsc() as carrier, provider_to(carrier.port) as (_, verdicts):
        carrier.on_submit = lambda peer, pdu: by_letter(peer, pdu, statuses)
        assert (await verdicts.one(long_message(3))).kind == kind


async def test_a_message_that_failed_while_a_segment_waits_has_one_verdict() -> None:
    async with smsc() as carrier, provider_to(carrier.port) as (provider, verdicts):
        carrier.on_submit = lambda peer, pdu: by_letter(
            peer, pdu, {b"a": THROTTLED, b"b": CommandStatus.ESME_RINVDSTADR}
        )
        assert (await verdicts.one(long_message(2))).kind == "permanent"
        await provider.stop()
        assert len(await verdicts.all()) == 1


async def test_a_segment_without_an_answer_makes_the_message_unknown() -> None:
    def but_one(peer: Peer, pdu: Pdu) -> None:
        if decode_short_message(pdu.body).short_message[-1:] != b"b":
            peer.accept(pdu)

    async with smsc() as carrier, provider_to(carrier.port, timeout_s=0.4) as (_, verdicts):
        carrier.on_submit = but_one
        verdict = await verdicts.one(long_message(3))
        assert (verdict.kind, verdict.code) == ("unknown", "timeout")


# -- time


async def test_no_answer_is_unknown_within_the_time_out_and_a_late_one_is_ignored() -> None:
    async with smsc() as carrier, provider_to(carrier.port, timeout_s=0.4) as (provider, verdicts):
        carrier.on_submit = nothing
        verdict = await verdicts.one()
        assert (verdict.kind, verdict.code) == ("unknown", "timeout")
        # Not before it is over, but for the tick that may come early.
        assert verdict.latency_us > 300_000
        peer, pdu = carrier.submits[0]
        carrier.on_submit = Peer.accept
        peer.accept(pdu, "late")
        assert (await verdicts.one()).provider_message_id == "id1"
        assert (provider.counts.timeouts, provider.counts.late_responses) == (1, 1)


async def test_every_message_has_the_whole_time_out_whenever_it_comes() -> None:
    """Also right after the answer to another, when this process has seen the clock before."""

    def accept_later(peer: Peer, pdu: Pdu) -> None:
        asyncio.get_running_loop().call_later(0.25, peer.accept, pdu)

    async with smsc() as carrier, provider_to(carrier.port, timeout_s=0.6) as (_, verdicts):
        carrier.on_submit = accept_later
        for _ in range(3):
            assert (await verdicts.one()).kind == "accepted"
            await asyncio.sleep(0.4)


async def test_the_window_is_kept_and_what_waits_goes_out_as_answers_come() -> None:
    async with smsc() as carrier, provider_to(carrier.port, window=3) as (_, verdicts):
        carrier.on_submit = nothing
        for number in range(10):
            verdicts.submit(f"m{number}")
        answered = 0
        while answered < 10:
            await until(lambda: len(carrier.submits) == min(10, answered + 3))  # noqa: B023
            peer, pdu = carrier.submits[answered]
            answered += 1
            peer.accept(pdu)
        assert carrier.texts == [b"m%d" % number for number in range(10)]
        assert {verdict.kind for verdict in await verdicts.all()} == {"accepted"}


async def test_what_finds_no_room_in_half_the_time_out_was_never_sent() -> None:
    async with smsc() as carrier, provider_to(carrier.port, window=1, timeout_s=0.6) as (_, verdicts):
        carrier.on_submit = nothing
        verdicts.submit("first")
        waited = await verdicts.one("second")
        # The first still has time for its answer.
        assert not verdicts.by_message[0]
        assert (waited.kind, waited.code, waited.latency_us) == ("throttled", "window", 0)
        first, _ = await verdicts.all()
        assert first.kind == "unknown"
        assert carrier.texts == [b"first"]


@pytest.mark.parametrize("status", [THROTTLED, QUEUE_FULL])
async def test_a_throttled_segment_is_sent_again_until_it_is_taken(status: int) -> None:
    async with smsc() as carrier, provider_to(carrier.port) as (provider, verdicts):
        taken = 0

        def every_third(peer: Peer, pdu: Pdu) -> None:
            nonlocal taken
            taken += 1
            if taken % 3:
                peer.answer(pdu, status)
            else:
                peer.accept(pdu)

        carrier.on_submit = every_third
        verdict = await verdicts.one(long_message(2))
        assert (verdict.kind, verdict.provider_message_id) == ("accepted", "id1,id2")
        assert provider.counts.throttled == 4
        assert len(carrier.submits) == 6


async def test_a_throttled_message_is_sent_again_once_each_time() -> None:
    async with smsc() as carrier, provider_to(carrier.port) as (_, verdicts):
        carrier.on_submit = lambda peer, pdu: (
            peer.answer(pdu, THROTTLED) if len(carrier.submits) < 3 else peer.accept(pdu)
        )
        assert (await verdicts.one()).kind == "accepted"
        assert (await verdicts.one()).kind == "accepted"
        assert len(carrier.submits) == 4


async def test_throttled_to_the_end_is_throttled_and_little_was_sent() -> None:
    async with smsc() as carrier, provider_to(carrier.port, timeout_s=1.6) as (_, verdicts):
        carrier.on_submit = lambda peer, pdu: peer.answer(pdu, THROTTLED)
        for _ in range(50):
            verdicts.submit()
        found = await verdicts.all()
        assert {(verdict.kind, verdict.code) for verdict in found} == {("throttled", "ESME_RTHROTTLED 0x58")}
        assert len(carrier.submits) < 60, "50 at once, then hardly any"


async def test_a_fault_in_reading_one_answer_costs_no_other_message_its_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(body: bytes) -> str:
        raise ZeroDivisionError

    # Only an id with a comma is read by it.
    monkeypatch.setattr("engine.providers.smpp.traffic.decode_message_id", fail)
    async with smsc() as carrier, provider_to(carrier.port) as (_, verdicts):
        carrier.on_submit = nothing
        numbers = [verdicts.submit(f"m{n}") for n in range(3)]
        await until(lambda: len(carrier.submits) == 3)
        for (peer, pdu), message_id in zip(carrier.submits, ("a", "b,c", "d"), strict=True):
            peer.accept(pdu, message_id)
        found = await verdicts.of(*numbers)
        assert [(v.kind, v.code) for v in found] == [
            ("accepted", "ESME_ROK 0x00"),
            ("unknown", "fault"),
            ("accepted", "ESME_ROK 0x00"),
        ]
        assert len(carrier.peers) == 1


# -- settings


async def test_names_longer_than_the_specification_allows_are_bound_with() -> None:
    system_id, password = "a" * 63, "b" * 63
    async with smsc() as carrier, provider_to(carrier.port, system_id=system_id, password=password):
        await until(lambda: bool(carrier.binds))
        bind = decode_bind(carrier.binds[0].body)
        assert (bind.system_id, bind.password) == (system_id, password)


async def test_a_password_stands_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("s3cret\nsecond line\n")
    async with smsc() as carrier:
        async with provider_to(carrier.port, password="", password_file=str(file)):
            await until(lambda: bool(carrier.binds))
        assert decode_bind(carrier.binds[0].body).password == "s3cret"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"password": "", "password_file": "/nowhere/password"}, "providers.carrier.password_file"),
        ({"password": "pässwörd\u20ac"}, "providers.carrier.password"),
        ({"system_id": "\u20ac"}, "providers.carrier.system_id"),
        ({"tls": True, "tls_ca_file": "/nowhere/ca.pem"}, "providers.carrier.tls_ca_file"),
        ({"tls": True, "tls_ca_file": __file__}, "providers.carrier.tls_ca_file"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as raised:
        SmppProvider(settings(1, **changes), Sink(), Problems())
    assert "pässwörd" not in str(raised.value)


def test_a_password_in_a_file_may_not_be_too_long(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("x" * 64)
    with pytest.raises(ConfigError, match=r"providers\.carrier\.password_file"):
        SmppProvider(settings(1, password="", password_file=str(file)), Sink(), Problems())
