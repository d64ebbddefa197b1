"""What carriers really write, octet for octet over real sockets, and the settings that mend a provider."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from engine.problem_records import ProblemKind
from engine.providers.settings import DataCodings
from engine.providers.smpp import deliveries
from engine.providers.smpp.body import decode_short_message
from engine.providers.smpp.codes import Command, CommandStatus
from engine.providers.smpp.pdu import Pdu
from engine.providers.states import StatesTable
from engine.records import Message
from tests.providers.scripted import until
from tests.providers.sink import Sink
from tests.providers.smpp.scripted_smsc import Peer, ScriptedSmsc, Verdicts, message, provider_to, smsc

TEXT = "id:7F3A sub:001 dlvrd:001 submit date:2611221200 done date:2611221201 stat:DELIVRD err:000 text:Hi"


def body(
    text: bytes = TEXT.encode(),
    tail: str = "",
    *,
    service_type: str = "",
    schedule: str = "",
    esm_class: int = 4,
    data_coding: int = 0,
    length: int | None = None,
) -> bytes:
    """A deliver_sm as a carrier may write it; `tail` in hex stands behind short_message."""
    return b"".join(
        (
            service_type.encode() + b"\0",
            bytes.fromhex("01 01 393839313230303030303031 00 05 00 44656D6F 00"),
            bytes((esm_class, 0, 0)),
            schedule.encode() + b"\0\0",
            bytes((0, 0, data_coding, 0, len(text) if length is None else length)),
            text,
            bytes.fromhex(tail),
        )
    )


async def answered(carrier: ScriptedSmsc, raw: bytes) -> Pdu:
    """Deliver this and wait for the one answer to it."""
    sequence = carrier.peer.ask(Command.deliver_sm, raw)
    await until(lambda: bool(carrier.peer.answers_to(sequence)))
    [answer] = carrier.peer.answers_to(sequence)
    return answer


def kinds(verdicts: Verdicts) -> dict[ProblemKind, int]:
    """What the provider noted since the last call, counted by kind."""
    return {noted.kind: noted.count for noted in verdicts.problems.collect()}


READ = {
    "ascii_as_ucs_2": body(data_coding=8),
    "utf_16_big_endian_as_default": body(TEXT[:100].encode("utf-16-be")),
    "utf_16_little_endian_as_latin_1": body(TEXT[:100].encode("utf-16-le"), data_coding=3),
    "utf_16_little_endian_as_ucs_2": body(TEXT[:100].encode("utf-16-le"), data_coding=8),
    "header_bit_without_a_header": body(esm_class=0x44),
    "nul_that_sm_length_does_not_count": body(tail="00"),
    "nul_before_the_parameters_end": body(tail="0427 0001 02 00"),
    "last_parameter_cut_short": body(tail="001E 0005 37463341 00 0423 0005 0300"),
    "last_parameter_cut_in_its_head": body(tail="0427 0001 02 0423"),
    "parameter_whose_length_counts_a_nul_that_is_missing": body(tail="001E 0005 37463341 0427 0001 02"),
    "parameter_whose_length_does_not_count_its_nul": body(b"", "001E 0004 37463341 00 0427 0001 02"),
    "last_parameter_whose_length_does_not_count_its_nul": body(b"", "0427 0001 02 001E 0004 37463341 00"),
    "error_code_shorter_than_its_length": body(tail="0423 0003 0000 001E 0005 3746334100 1454 0004 00000001"),
    "sm_length_counts_a_nul_that_is_missing": body(length=len(TEXT) + 1),
    "service_type_of_6": body(service_type="NOTICE"),
    "times_of_18": body(schedule="0" * 18),
    "id_in_quotes": body(TEXT.replace("id:7F3A", 'id:"7F3A"').encode()),
    "id_with_blanks_in_the_parameter": body(b"", "001E 0007 2037463341 2000 0427 0001 02"),
}


@pytest.mark.parametrize("name", READ)
async def test_a_receipt_is_read_as_it_is_written(name: str) -> None:
    sink = Sink()
    async with smsc() as carrier, provider_to(carrier.port, sink) as (provider, verdicts):
        await verdicts.one()
        assert (await answered(carrier, READ[name])).status == 0
        [receipt] = sink.receipts
        assert (receipt.provider_message_id, receipt.state, receipt.to) == (
            "7F3A",
            "delivered",
            "989120000001",
        )
        assert (provider.counts.receipts, provider.counts.wrong_pdus) == (1, 0)
        assert kinds(verdicts) == {}


async def test_what_cannot_be_read_is_refused_at_once_and_when_it_comes_again_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deliveries, "REPEAT_S", 3600.0)
    monkeypatch.setattr(deliveries, "REPEAT_S_MAX", 3600.0)
    sink = Sink()
    async with smsc() as carrier, provider_to(carrier.port, sink) as (_, verdicts):
        await verdicts.one()
        nameless = body(b"sub:001 stat:DELIVRD")
        assert (await answered(carrier, nameless)).status == CommandStatus.ESME_RX_P_APPN
        again = carrier.peer.ask(Command.deliver_sm, nameless)
        # Another is answered at once, a good one too.
        assert (await answered(carrier, body(b"sub:001 stat:UNDELIV"))).status == CommandStatus.ESME_RX_P_APPN
        assert (await answered(carrier, body())).status == 0
        assert carrier.peer.answers_to(again) == []
        assert kinds(verdicts) == {ProblemKind.receipt_unread: 3}


async def test_what_is_refused_again_is_answered_when_its_pause_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deliveries, "REPEAT_S", 0.01)
    async with smsc() as carrier, provider_to(carrier.port) as (_, verdicts):
        await verdicts.one()
        nameless = body(b"sub:001 stat:DELIVRD")
        for _ in range(4):
            assert (await answered(carrier, nameless)).status == CommandStatus.ESME_RX_P_APPN


async def test_a_message_id_is_the_same_in_the_answer_and_in_the_receipt_whatever_stands_around_it() -> None:
    sink = Sink()
    async with smsc() as carrier, provider_to(carrier.port, sink) as (_, verdicts):
        carrier.on_submit = lambda peer, pdu: peer.answer(pdu, 0, b' "7F3A" \0')
        assert (await verdicts.one()).provider_message_id == "7F3A"
        await answered(carrier, body())
        assert [receipt.provider_message_id for receipt in sink.receipts] == ["7F3A"]


# -- settings


async def test_a_state_that_is_not_known_is_kept_as_pending_and_noted() -> None:
    sink = Sink()
    async with smsc() as carrier, provider_to(carrier.port, sink) as (provider, verdicts):
        await verdicts.one()
        assert (await answered(carrier, body(b"id:1 stat:BLACKLIST err:7"))).status == 0
        assert (await answered(carrier, body(b"id:2", "0427 0001 2A"))).status == 0
        assert (await answered(carrier, body(b"id:3 stat:UNDELIVRD err:7"))).status == 0
        assert [(r.state, r.code) for r in sink.receipts] == [
            ("pending", "BLACKLIST 7"), ("pending", "42"), ("undelivered", "UNDELIVRD 7"),
        ]  # fmt: skip
        assert provider.counts.receipts_unknown_state == 2
        assert kinds(verdicts) == {ProblemKind.receipt_state: 2}


async def test_the_setting_states_says_what_a_state_means() -> None:
    sink, states = Sink(), StatesTable(undelivered=["BLACK*", 42])
    async with smsc() as carrier, provider_to(carrier.port, sink, states=states) as (provider, verdicts):
        await verdicts.one()
        await answered(carrier, body(b"id:1 stat:Blacklist err:7"))
        await answered(carrier, body(b"id:2", "0427 0001 2A"))
        assert [r.state for r in sink.receipts] == ["undelivered", "undelivered"]
        assert provider.counts.receipts_unknown_state == 0


async def test_an_unmarked_receipt_is_a_message_and_the_first_is_said() -> None:
    sink = Sink()
    with capture_logs() as lines:
        async with smsc() as carrier, provider_to(carrier.port, sink) as (provider, verdicts):
            await verdicts.one()
            for _ in range(2):
                assert (await answered(carrier, body(esm_class=0))).status == 0
            assert sink.receipts == []
            assert (provider.counts.mo_dropped, provider.counts.receipts_unmarked) == (2, 2)
            assert kinds(verdicts) == {ProblemKind.receipt_unmarked: 2}
    assert settings_named(lines) == ["providers.carrier.receipts_by_text"]


async def test_the_setting_receipts_by_text_takes_an_unmarked_receipt() -> None:
    sink = Sink()
    async with smsc() as carrier, provider_to(carrier.port, sink, receipts_by_text=True) as (_, verdicts):
        await verdicts.one()
        await answered(carrier, body(esm_class=0))
        await answered(carrier, body(b"Hello", esm_class=0))
        assert [(r.provider_message_id, r.state) for r in sink.receipts] == [("7F3A", "delivered")]


def settings_named(lines: list[MutableMapping[str, Any]]) -> list[str]:
    return [line["setting"] for line in lines if line["log_level"] == "warning" and "setting" in line]


def no_validity(peer: Peer, pdu: Pdu) -> None:
    """A carrier that refuses every validity_period."""
    if decode_short_message(pdu.body).validity_period:
        peer.answer(pdu, CommandStatus.ESME_RINVEXPIRY)
    else:
        peer.accept(pdu)


async def test_a_validity_period_that_is_refused_names_its_setting_once() -> None:
    with capture_logs() as lines:
        async with smsc() as carrier, provider_to(carrier.port) as (_, verdicts):
            carrier.on_submit = no_validity
            for _ in range(2):
                verdict = await verdicts.one()
                assert (verdict.kind, verdict.code) == ("temporary", "ESME_RINVEXPIRY 0x62")
    assert settings_named(lines) == ["providers.carrier.validity_period"]


async def test_the_setting_validity_period_leaves_it_out_or_writes_a_time() -> None:
    async with smsc() as carrier:
        carrier.on_submit = no_validity
        async with provider_to(carrier.port, validity_period="none") as (_, verdicts):
            assert (await verdicts.one()).kind == "accepted"
        async with provider_to(carrier.port, validity_period="absolute") as (_, verdicts):
            assert (await verdicts.one()).code == "ESME_RINVEXPIRY 0x62"
        written = decode_short_message(carrier.submits[-1][1].body).validity_period
        assert (len(written), written[12:]) == (16, "000+")


async def test_the_setting_default_alphabet_and_data_coding_are_on_the_wire() -> None:
    async with smsc() as carrier:
        async with provider_to(carrier.port, default_alphabet="latin1") as (_, verdicts):
            await verdicts.one("a@b_é")
        codings = DataCodings(default=1)
        async with provider_to(carrier.port, default_alphabet="ascii", data_coding=codings) as (_, verdicts):
            await verdicts.one("a@b_")
        first, second = (decode_short_message(pdu.body) for _, pdu in carrier.submits)
        assert (first.data_coding, first.short_message) == (0, b"a@b_\xe9")
        assert (second.data_coding, second.short_message) == (1, b"a@b_")


async def test_segments_beyond_those_paid_for_are_counted() -> None:
    async with (
        smsc() as carrier,
        provider_to(carrier.port, default_alphabet="latin1") as (provider, verdicts),
    ):
        long: Message = message("a" * 150 + "€")
        assert (await verdicts.one(long)).kind == "accepted"
        assert len(carrier.submits) == 3
        assert provider.counts.segments_unpaid == 2
