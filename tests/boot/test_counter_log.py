"""Counters become lines of the log: only what has grown, and the rest when the process drains."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from engine import providers
from engine.activity.archiver import ArchiverCounts
from engine.boot.counter_log import CounterLog, changes
from engine.credit.answer_counts import AnswerCounts
from engine.delivery.settlement_counts import SettlementCounts
from engine.delivery.verdict_counts import VerdictCounts
from engine.intake.under_way import CreditWaits
from engine.providers.smpp.codes import Command
from engine.providers.smpp.session import Counts
from engine.receipts.ends import MatchCounts
from engine.stores.redis.receipt_sink import ReceiptCounts
from tests.providers.scripted import until
from tests.providers.smpp.scripted_smsc import Peer, provider_to, smsc

PAGE = Path(__file__).parents[2] / "docs" / "providers.md"
COUNTERS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 2**40))


class Two(msgspec.Struct):
    first: int = 0
    second: int = 0


@pytest.fixture
def lines() -> Iterator[list[MutableMapping[str, Any]]]:
    with capture_logs() as logs:
        yield logs


@given(COUNTERS, COUNTERS)
def test_the_changes_added_to_what_was_give_what_is(before: dict[str, int], more: dict[str, int]) -> None:
    after = {name: count + more.get(name, 0) for name, count in before.items()}
    found = changes(before, after)
    assert {name: count + found.get(name, 0) for name, count in before.items()} == after
    assert 0 not in found.values()


async def test_a_line_has_what_was_counted_since_the_last_one(lines: list[MutableMapping[str, Any]]) -> None:
    counters = Two(first=5)
    async with CounterLog(structlog.get_logger()) as log:
        log.watch("counted", counters, provider="a")
        log.write()
        assert lines == []
        counters.first += 3
        log.write()
        counters.first += 1
        counters.second += 2
        log.write()
        log.write()
    line = {"event": "counted", "log_level": "info", "provider": "a"}
    assert lines == [line | {"first": 3}, line | {"first": 1, "second": 2}]


async def test_lines_come_by_themselves_and_the_last_at_the_end(
    lines: list[MutableMapping[str, Any]],
) -> None:
    counters = Two()
    async with CounterLog(structlog.get_logger(), period_s=0.001) as log:
        log.watch("counted", counters)
        counters.first += 1
        await until(lambda: len(lines) == 1)
    async with CounterLog(structlog.get_logger()) as log:
        log.watch("counted", counters)
        counters.second += 1
    assert [line.get("second") for line in lines] == [None, 1]


async def test_a_rebind_and_a_wrong_pdu_show_up_in_the_line_of_their_provider(
    lines: list[MutableMapping[str, Any]],
) -> None:
    async with smsc() as carrier, provider_to(carrier.port) as (provider, verdicts):
        counts = providers.traffic_counts(provider)
        assert isinstance(counts, Counts)
        async with CounterLog(structlog.get_logger()) as log:
            log.watch("provider traffic", counts, provider=provider.name)
            assert (await verdicts.one()).kind == "accepted"
            log.write()
            carrier.on_submit = lambda peer, pdu: peer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            assert (await verdicts.one()).code == "framing"
            await until(lambda: counts.rebinds == 1)
            carrier.on_submit = Peer.accept
            assert (await verdicts.one()).kind == "accepted"
            # A bind is no request that a client serves.
            carrier.peer.ask(Command.bind_receiver)
            await until(lambda: bool(carrier.peer.asked(Command.generic_nack)))
    traffic = [line for line in lines if line["event"] == "provider traffic"]
    wrong = {"rebinds": 1, "sessions_lost": 1, "wrong_pdus": 1, "unknown_commands": 1}
    assert traffic == [{"event": "provider traffic", "log_level": "info", "provider": "carrier", **wrong}]


@pytest.mark.parametrize(
    "counters",
    [
        *(Counts(), VerdictCounts(), SettlementCounts(), ReceiptCounts(), ArchiverCounts(), MatchCounts()),
        *(CreditWaits(), AnswerCounts()),
    ],
)
def test_each_counter_is_explained_to_operators(counters: msgspec.Struct) -> None:
    page = PAGE.read_text(encoding="utf-8").partition("## What the log says")[2].partition("\n## ")[0]
    assert [name for name in counters.__struct_fields__ if f"`{name}`" not in page] == []
