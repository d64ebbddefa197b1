"""The ClickHouse side of the activity: blocks, tokens, reads."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest

from engine.activity.blocks import block_of
from engine.activity.records import ActivityBlock, ActivityEntry
from engine.credit.ledger_records import BalanceEvent
from engine.errors import ConfigError, Unavailable
from engine.records import ActivityRow
from engine.stores.clickhouse.activity import ClickHouseActivityStore
from engine.stores.clickhouse.client import parse_url
from tests.activity.world import T0, World, blob_of, in_database, make_row

MONTH_US = 31 * 86_400_000_000


def block(rows: list[ActivityRow], shard: int = 0, ms: int = 1, seq: int = 0) -> ActivityBlock:
    return block_of([ActivityEntry(shard=shard, id=(ms, seq), blob=blob_of(rows))])[0]


async def rolled_up(world: World) -> list[tuple[Any, ...]]:
    return await world.query("SELECT sum(events), sum(segments), sum(units) FROM report_quarters")


async def test_every_field_of_a_row_comes_back_as_it_was(world: World) -> None:
    whole = make_row(
        1,
        sender="Ünïcode\t'\"\\\n\x00",
        provider_message_id="0x1F",
        code="ESME_RTHROTTLED",
        reference="réf",
        due_at_us=T0 + 5,
        expires_at_us=T0 + 300_000_000,
        outcome_unknown=True,
        segments=65535,
        units=2**32 - 1,
        latency_us=2**32 - 1,
    )
    bare = make_row(0, organisation_id=whole.organisation_id)
    await world.store.insert(block([whole, bare]), "t")
    assert await world.stored(whole.organisation_id, whole.message_id, T0) == [bare, whole]


async def test_a_block_sent_again_with_its_token_is_stored_once_in_table_and_roll_up(world: World) -> None:
    rows = [make_row(n) for n in range(60)]
    for _ in range(3):
        await world.store.insert(block(rows), "same")
    assert await world.rows_stored() == 60
    assert await rolled_up(world) == [(60, sum(r.segments for r in rows), sum(r.units for r in rows))]


async def test_equal_rows_under_another_token_are_other_rows(world: World) -> None:
    await world.store.insert(block([make_row(1)]), "one")
    await world.store.insert(block([make_row(1)]), "two")
    assert await world.rows_stored() == 2
    assert (await rolled_up(world))[0][0] == 2


async def test_the_same_block_from_two_at_once_is_stored_once(world: World, clickhouse_url: str) -> None:
    rows = [make_row(n) for n in range(3000)]
    other = ClickHouseActivityStore(world.clickhouse_url)
    await asyncio.gather(*(store.insert(block(rows), "t") for store in (world.store, other) * 2))
    await other.close()
    assert await world.rows_stored() == 3000
    assert (await rolled_up(world))[0][0] == 3000


async def test_a_block_of_which_one_month_was_stored_is_completed(world: World) -> None:
    """What a server killed between the two parts of an insert leaves behind."""
    this = [make_row(n) for n in range(10)]
    last = [
        make_row(n, accepted_at_us=T0 - MONTH_US, at_us=T0 - MONTH_US + n, organisation_id=3)
        for n in range(7)
    ]
    await world.store.insert(block(last), "t")
    await world.store.insert(block(last + this), "t")
    await world.store.insert(block(last + this), "t")
    assert await world.rows_stored() == 17
    assert (await rolled_up(world))[0][0] == 17


@pytest.mark.parametrize(
    ("view", "table"),
    [
        ("activity_to_report", "report_quarters"),
        ("report_to_quarters", "report_quarters"),
    ],
)
async def test_a_block_that_never_reached_a_roll_up_reaches_it_when_sent_again(
    world: World, view: str, table: str
) -> None:
    """What a server killed between a table and a view of it leaves behind."""
    rows = [make_row(n) for n in range(10)]
    await world.query(f"DETACH TABLE {view}")
    await world.store.insert(block(rows), "t")
    assert await world.query(f"SELECT count() FROM {table}") == [(0,)]
    await world.query(f"ATTACH TABLE {view}")
    await world.store.insert(block(rows), "t")
    assert await world.rows_stored() == 10
    for counts in ("report_minutes", "report_quarters"):
        assert await world.query(f"SELECT sum(events) FROM {counts}") == [(10,)]


async def test_a_block_goes_in_whole_or_not_at_all(world: World) -> None:
    whole = block([make_row(n) for n in range(3)])
    cut = msgspec.structs.replace(whole, columns=[*whole.columns[:-1], whole.columns[-1][:-2]])
    with pytest.raises(Unavailable):
        await world.store.insert(cut, "t")
    assert await world.rows_stored() == 0
    await world.store.insert(whole, "t")
    assert await world.rows_stored() == 3


async def test_a_block_that_is_compressed_on_its_way_is_the_same_block(world: World) -> None:
    rows = [make_row(n, sender="é" * n) for n in range(300)]
    store = ClickHouseActivityStore(world.clickhouse_url, compressed=True)
    await store.insert(block(rows), "t")
    await store.close()
    await world.store.insert(block(rows), "t")
    assert await world.rows_stored() == 300
    row = rows[7]
    assert row in await world.stored(row.organisation_id, row.message_id, T0)


async def test_a_message_is_found_by_the_millisecond_its_id_holds(world: World) -> None:
    row = make_row(0, accepted_at_us=T0 + 987)
    await world.store.insert(block([row]), "t")
    for accepted_at_us in (T0, T0 + 987):
        assert await world.stored(row.organisation_id, row.message_id, accepted_at_us) == [row]
    assert await world.stored(row.organisation_id + 1, row.message_id, T0) == []
    assert await world.stored(row.organisation_id, row.message_id + "0", T0) == []


async def test_a_message_is_found_without_reading_the_table(world: World) -> None:
    rows = [make_row(n, organisation_id=n % 50, accepted_at_us=T0 + n * 1000) for n in range(100_000)]
    await world.store.insert(block(rows), "t")
    plan = await world.query(
        "EXPLAIN indexes = 1 SELECT * FROM activity WHERE organisation_id = 7 "
        f"AND accepted_at BETWEEN fromUnixTimestamp64Micro({T0 + 7_000_000 - 1000}, 'UTC') "
        f"AND fromUnixTimestamp64Micro({T0 + 7_000_000 + 1000}, 'UTC')"
    )
    granules = [line for (line,) in plan if "Granules" in line]
    read, _, of = granules[-1].rpartition(" ")[2].partition("/")
    assert int(read) <= 2 < int(of)


async def test_the_units_are_those_between_two_places_of_a_shards_stream(world: World) -> None:
    def rows(units: int, event: str) -> list[ActivityRow]:
        return [make_row(0, organisation_id=7, units=units, event=event)]

    for i, (shard, ms, seq, units, event) in enumerate(
        [
            (0, 10, 0, 1, "accepted"),
            (0, 10, 1, 2, "accepted"),
            (0, 10, 2, 4, "accepted"),
            (0, 9, 99, 8, "sent"),
            (1, 11, 0, 16, "accepted"),
            (1, 5, 0, 32, "failed"),
            (2, 1, 0, 64, "accepted"),
        ]
    ):
        await world.store.insert(block(rows(units, event), shard, ms, seq), f"t{i}")
    between = world.store.units_between
    assert await between(0, (0, 0), (10, 2), 5) == ({7: (3, 8, 0)}, 3)
    assert await between(0, (10, 0), (10, 1), 5) == ({7: (1, 0, 0)}, 1)
    assert await between(1, (0, 0), (11, 0), 5) == ({7: (0, 0, 32)}, 1)
    assert await between(2, (2, 0), (9, 0), 5) == ({}, 0)


async def test_a_block_whose_rows_are_of_very_many_days_is_stored(world: World) -> None:
    day_us = 86_400_000_000
    rows = [
        make_row(n, organisation_id=7, event="sent", provider="sim", at_us=T0 + n * day_us,
                 accepted_at_us=T0 + n * day_us, provider_message_id=f"p{n}")
        for n in range(150)
    ]  # fmt: skip
    await world.store.insert(block(rows), "t")
    assert await world.query("SELECT count() FROM activity") == [(150,)]


async def rows_to_read(world: World, condition: str, *settings: str) -> int:
    """How many rows a sum of units reads, as ClickHouse plans it."""
    found = await world.query(
        "EXPLAIN ESTIMATE SELECT organisation_id, sumIf(units, event = 'sent'), count() FROM activity"
        f" WHERE {condition} GROUP BY 1 SETTINGS {', '.join(settings or ('optimize_use_projections = 1',))}"
    )
    return sum(row[3] for row in found)


async def test_summing_what_came_after_a_place_reads_that_and_not_the_table(world: World) -> None:
    # Months of a shard and of fifteen others, 1,000 rows a day. The last month has 21 days, which is more
    # than may be read.
    days = 120
    await world.query(
        "INSERT INTO activity (at, organisation_id, message_id, accepted_at, event, units, shard, stream_ms)"
        " SELECT at, 1 + number % 500, toString(number), fromUnixTimestamp64Milli(toInt64(ms), 'UTC') AS at,"
        f" 'accepted', 1, number % 16, {T0 // 1000} + intDiv(number, 1000) * 86400000 + number % 1000 AS ms"
        f" FROM numbers({days * 1000}) SETTINGS max_partitions_per_insert_block = 100"
    )
    await world.query("OPTIMIZE TABLE activity FINAL")
    last_day_ms = T0 // 1000 + (days - 1) * 86_400_000
    between = f"shard = 3 AND stream_ms BETWEEN {last_day_ms} AND {last_day_ms + 86_400_000}"
    assert await rows_to_read(world, between) <= 2 * 8192
    assert await rows_to_read(world, "shard = 3 AND stream_ms >= 0") > 7_000
    assert await rows_to_read(world, between, "optimize_use_projections = 0") > 2 * 8192
    units, rows = await world.store.units_between(3, (last_day_ms, 0), (last_day_ms + 86_400_000, 0), 5)
    assert (sum(u.held for u in units.values()), rows) == (62, 62)


async def test_the_roll_up_has_quantiles_by_minute_provider_and_code(world: World) -> None:
    rows = [
        make_row(n, organisation_id=7, event="sent", provider="sim", code="0", latency_us=1000 * (n + 1),
                 at_us=T0 + 5_000_000 + n)
        for n in range(100)
    ]  # fmt: skip
    rows.append(make_row(0, organisation_id=7, event="accepted", provider="", code="", latency_us=0))
    await world.store.insert(block(rows), "t")
    [sent] = await world.query(
        "SELECT toUnixTimestamp(minute), sum(events), "
        "quantilesTDigestIfMerge(0.5, 0.95, 0.99)(answer_us), "
        "quantilesTDigestIfMerge(0.5, 0.95, 0.99)(age_us) FROM report_minutes "
        "WHERE organisation_id = 7 AND event = 'sent' AND provider = 'sim' GROUP BY minute"
    )
    assert sent[:2] == (T0 // 60_000_000 * 60, 100)
    assert sent[2] == pytest.approx([50_000, 95_000, 99_000], rel=0.02)
    assert sent[3] == pytest.approx([5_000_000] * 3, rel=0.01)
    [accepted] = await world.query(
        "SELECT quantilesTDigestIfMerge(0.5, 0.95, 0.99)(answer_us) FROM report_minutes "
        "WHERE event = 'accepted'"
    )
    assert all(quantile != quantile for quantile in accepted[0]), "no attempt, no latency"


async def test_an_event_of_an_organisation_is_kept_among_those_of_messages(world: World) -> None:
    event = BalanceEvent(
        row_id=1, shard=0, organisation_id=7, event="low_balance", units=3_999_999_999, at_us=T0 + 123_456
    )
    rows = [make_row(0, organisation_id=7, event="accepted", units=2), event.activity()]
    for _ in range(2):
        await world.store.insert(block(rows), "t")
    assert await world.query(
        "SELECT toUnixTimestamp64Micro(at), units, message_id, queue FROM activity"
        " WHERE event = 'low_balance'"
    ) == [(T0 + 123_456, 3_999_999_999, "", "")]
    assert await world.query(
        "SELECT event, queue, sum(events), sum(units) FROM report_minutes"
        " GROUP BY event, queue ORDER BY event"
    ) == [("accepted", rows[0].queue, 1, 2)], "it is no event of a message"
    # It is of no message, and so no units were held for it.
    assert await world.store.units_between(0, (0, 0), (9, 0), 5) == ({7: (2, 0, 0)}, 2)


async def test_sending_a_large_block_takes_the_loop_less_than_two_microseconds_a_row(world: World) -> None:
    large = await asyncio.to_thread(block, [make_row(n) for n in range(50_000)])
    # CPU time, not the clock: others may be at work.
    used_s = time.thread_time()
    await world.store.insert(large, "t")
    assert time.thread_time() - used_s < 50_000 * 2e-6


async def test_a_server_that_is_away_is_unavailable_and_the_next_call_connects(world: World) -> None:
    away = ClickHouseActivityStore("http://u:p@127.0.0.1:1/db", timeout_s=2.0)
    with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:1"):
        await away.insert(block([make_row(0)]), "t")
    await away.close()
    await world.store.close()
    await world.store.insert(block([make_row(0)]), "t")
    assert await world.rows_stored() == 1


async def test_what_the_operator_must_mend_is_said_in_a_sentence_without_the_password(world: World) -> None:
    host = world.clickhouse_url.rpartition("@")[2]
    await world.query("CREATE DATABASE IF NOT EXISTS activity_without_tables")
    for url, expected in (
        (f"http://sms:hunter2@{host}", "password"),
        (in_database(world.clickhouse_url, "nowhere"), "smsengine migrate"),
        (in_database(world.clickhouse_url, "activity_without_tables"), "smsengine migrate"),
    ):
        store = ClickHouseActivityStore(url)
        with pytest.raises(ConfigError, match=expected) as caught:
            await store.insert(block([make_row(0)]), "t")
        assert "hunter2" not in str(caught.value)
        await store.close()


def test_urls_name_host_port_credentials_and_database() -> None:
    place = parse_url("https://us%40er:p%2Fw@ch.example/sms")
    assert (place.host, place.port, place.tls) == ("ch.example", 8443, True)
    assert (place.user, place.password, place.database) == ("us@er", "p/w", "sms")
    assert parse_url("http://ch").port == 8123
    assert parse_url("http://ch").database == "default"


@pytest.mark.parametrize(
    "url", ["", "ch:8123", "tcp://ch:9000", "http://:8123", "http://ch:x", "http://ch/?a=1"]
)
def test_a_url_of_another_form_is_refused_in_one_sentence(url: str) -> None:
    with pytest.raises(ConfigError, match="ClickHouse URL"):
        parse_url(url)


@pytest.mark.parametrize("answer", [b'["2026', b"[1, 2]\n", b"{}\n", b"Code: 241. DB::Exception\n", b"\xff"])
def test_an_answer_that_broke_off_is_no_history(answer: bytes) -> None:
    store = ClickHouseActivityStore("http://127.0.0.1:1/sms")
    with pytest.raises(Unavailable, match="cannot be read"):
        store._read(answer)
