"""Routes and provider states against a real PostgreSQL, their copy against a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import msgspec
import pytest

from engine.config import Config
from engine.errors import Refusal, Unavailable
from engine.providers.settings import ProviderSettings, SimulatedSettings
from engine.records import IdempotentCall
from engine.routing.records import Route, RoutingPlan
from engine.stores.postgres.pool import Pool
from engine.stores.postgres.routing import Routing
from engine.stores.redis.link import RedisLink
from engine.stores.redis.routing_copy import RoutingCopy
from supervisor.prepare import _seed, with_urls
from tests.adversity.proxy import Proxy
from tests.postgres_databases import database

DATABASE = 11
NAMES = ("a", "b", "c")
EVERYWHERE = Route(providers=("a", "b"), weights=(2, 1))
IRAN = Route(prefix="+98", providers=("b",))
CODES = Route(prefix="+98", sender="Acme", queue="express", providers=("c", "b"), reroute=True)


@pytest.fixture
async def url(postgres_url: str) -> AsyncIterator[str]:
    async with database(postgres_url, "routing_store") as url:
        yield url


@pytest.fixture
async def routing(url: str) -> AsyncIterator[Routing]:
    pool = await Pool.connect(url)
    yield Routing(pool, NAMES)
    await pool.close()


@pytest.fixture
async def rows(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    link = RedisLink(redis_url.rpartition("/")[0] + f"/{DATABASE}", timeout_s=5, name="routing")
    await link.call("FLUSHDB")
    yield link
    await link.close()


def plan(version: int, **more: Any) -> RoutingPlan:
    return RoutingPlan(version=version, **more)


async def test_a_fresh_plan_is_empty_and_of_version_0(routing: Routing) -> None:
    assert await routing.version() == 0
    assert await routing.read() == plan(0)


async def test_routes_are_replaced_as_a_whole_and_come_back_as_they_went(routing: Routing) -> None:
    changed = await routing.replace([CODES, EVERYWHERE, IRAN])
    assert changed == plan(1, routes=(EVERYWHERE, IRAN, CODES))
    assert await routing.read() == changed
    assert await routing.replace([IRAN]) == plan(2, routes=(IRAN,))
    assert await routing.replace([]) == plan(3)
    assert await routing.version() == 3


async def test_the_same_routes_again_in_whatever_order_change_nothing(routing: Routing, rows: Any) -> None:
    await routing.replace([EVERYWHERE, IRAN])
    before = await rows.fetch("SELECT * FROM routes ORDER BY prefix")
    assert (await routing.replace([IRAN, EVERYWHERE])).version == 1
    assert await rows.fetch("SELECT * FROM routes ORDER BY prefix") == before
    await routing.replace([msgspec.structs.replace(IRAN, providers=("c",)), EVERYWHERE])
    after = await rows.fetch("SELECT * FROM routes ORDER BY prefix")
    assert after[0] == before[0], "what stayed as it was keeps the time of its change"
    assert after[1]["changed_at"] > before[1]["changed_at"]


async def test_the_configuration_sets_routes_that_nobody_has_set_and_only_those(
    url: str, routing: Routing
) -> None:
    providers: list[ProviderSettings] = [SimulatedSettings(name=name) for name in NAMES]
    bare, routed = Config(providers=providers), Config(providers=providers, routes=[EVERYWHERE])
    await _seed(with_urls(bare, {"postgres": url}))
    await routing.set_paused("a", True)
    assert (await routing.read()).version == 1
    config = with_urls(routed, {"postgres": url})
    await asyncio.gather(*(_seed(config) for _ in range(5)))
    assert await routing.read() == plan(2, routes=(EVERYWHERE,), paused=("a",))
    # To have none is an operator's choice as well.
    await routing.replace([])
    await _seed(config)
    assert await routing.read() == plan(3, paused=("a",))


async def test_a_provider_is_paused_and_resumed_and_again_changes_nothing(routing: Routing) -> None:
    await routing.replace([EVERYWHERE])
    for _ in range(2):
        assert await routing.set_paused("b", True) == plan(2, routes=(EVERYWHERE,), paused=("b",))
    assert (await routing.set_paused("a", False)).version == 2, "it was not paused"
    for _ in range(2):
        assert await routing.set_paused("b", False) == plan(3, routes=(EVERYWHERE,))


async def test_a_pause_keeps_since_when_it_is_and_the_reason_that_was_given_last(routing: Routing) -> None:
    assert await routing.provider_pauses() == {}
    await routing.set_paused("b", True, "no receipts")
    first = await routing.provider_pauses()
    assert [(name, pause.reason) for name, pause in first.items()] == [("b", "no receipts")]
    assert (await routing.set_paused("b", True)).version == 1
    assert await routing.provider_pauses() == first, "who gives no reason keeps the one before"
    assert (await routing.set_paused("b", True, "wrong bills")).version == 1, "workers need not know"
    await routing.set_throughput("b", 5)
    assert await routing.provider_pauses() == {"b": msgspec.structs.replace(first["b"], reason="wrong bills")}
    await routing.set_paused("b", False)
    assert await routing.provider_pauses() == {}
    await routing.set_paused("b", True)
    [again] = (await routing.provider_pauses()).values()
    assert again.reason == ""
    assert again.since > first["b"].since
    with pytest.raises(Refusal) as refused:
        await routing.set_paused("a", True, "x" * 201)
    assert (refused.value.status, refused.value.field) == (422, "reason")
    assert list(await routing.provider_pauses()) == ["b"]


async def test_what_an_older_version_pauses_and_resumes_has_its_time_and_no_reason_of_an_earlier_pause(
    routing: Routing, rows: Any
) -> None:
    # As versions before the reason write it.
    write = """
        INSERT INTO provider_states (provider, paused) VALUES ($1, $2)
        ON CONFLICT (provider) DO UPDATE SET paused = EXCLUDED.paused, changed_at = now()"""
    await rows.execute(write, "a", True)
    await routing.set_paused("b", True, "no receipts")
    first = await routing.provider_pauses()
    assert [(name, pause.reason) for name, pause in first.items()] == [("a", ""), ("b", "no receipts")]
    for paused in (False, True):
        await rows.execute(write, "b", paused)
    second = await routing.provider_pauses()
    assert (second["a"], second["b"].reason) == (first["a"], "")
    assert second["b"].since > first["b"].since


async def test_a_throughput_is_set_and_given_back_to_the_configuration(routing: Routing) -> None:
    await routing.set_paused("a", True)
    for _ in range(2):
        assert await routing.set_throughput("a", 12.5) == plan(2, paused=("a",), throughput={"a": 12.5})
    assert (await routing.set_throughput("b", 1)).throughput == {"a": 12.5, "b": 1.0}
    assert (await routing.set_throughput("c", None)).version == 3
    for _ in range(2):
        assert await routing.set_throughput("a", None) == plan(4, paused=("a",), throughput={"b": 1.0})


async def test_a_repeated_call_does_not_undo_what_somebody_wished_meanwhile(routing: Routing) -> None:
    once = IdempotentCall(scope="admin", key="pause a", fingerprint=b"1")
    assert (await routing.set_paused("a", True, once=once)).paused == ("a",)
    await routing.set_paused("a", False)
    assert (await routing.set_paused("a", True, once=once)).paused == ()
    other = IdempotentCall(scope="admin", key="pause a", fingerprint=b"2")
    with pytest.raises(Refusal) as refused:
        await routing.set_paused("b", True, once=other)
    assert refused.value.code == "idempotency_key_reused"
    assert (await routing.read()).paused == ()


async def test_what_is_wrong_is_refused_with_the_field_and_changes_nothing(routing: Routing) -> None:
    before = await routing.replace([EVERYWHERE])
    with pytest.raises(Refusal) as refused:
        await routing.replace([IRAN, Route(providers=("d",))])
    assert (refused.value.status, refused.value.field) == (422, "routes.1.providers")
    for rate in (0, -1, 1_000_001, float("nan"), float("inf")):
        with pytest.raises(Refusal) as refused:
            await routing.set_throughput("a", rate)
        assert (refused.value.status, refused.value.field) == (422, "throughput")
    for call in (routing.set_paused("d", True), routing.set_throughput("d", 1)):
        with pytest.raises(Refusal) as refused:
            await call
        assert refused.value.status == 404
    assert await routing.read() == before


async def test_a_change_based_on_another_version_is_refused(routing: Routing) -> None:
    await routing.replace([EVERYWHERE])
    assert (await routing.replace([IRAN], version=1)).version == 2
    with pytest.raises(Refusal) as refused:
        await routing.replace([CODES], version=1)
    assert (refused.value.status, refused.value.field) == (409, "version")
    # The first attempt's answer was lost: asked again, it is as wanted.
    assert (await routing.replace([IRAN], version=1)).version == 2


async def test_of_changes_based_on_one_version_one_counts(routing: Routing) -> None:
    await routing.replace([EVERYWHERE])
    tables = [[Route(prefix=f"+{n}", providers=("a",))] for n in range(1, 9)]
    outcomes = await asyncio.gather(
        *(routing.replace(table, version=1) for table in tables), return_exceptions=True
    )
    assert sum(isinstance(o, RoutingPlan) for o in outcomes) == 1
    assert (await routing.read()).version == 2


async def test_changes_of_all_kinds_at_once_each_count_once(routing: Routing) -> None:
    tables = [[Route(prefix=f"+{n}{i}", providers=("a",)) for i in range(10, 40)] for n in range(1, 5)]
    await asyncio.gather(
        *(routing.replace(table) for table in tables),
        *(routing.set_paused(name, True) for name in NAMES for _ in range(2)),
        *(routing.set_throughput(name, 5) for name in NAMES),
    )
    left = await routing.read()
    assert left.version == 4 + 3 + 3
    assert list(left.routes) in tables
    assert (left.paused, set(left.throughput)) == (NAMES, set(NAMES))


async def test_a_reader_sees_whole_plans_only(routing: Routing) -> None:
    tables = [[Route(prefix=f"+{n}{i}", providers=("a",)) for i in range(10, 30)] for n in (1, 2)]
    await routing.replace(tables[0])

    async def change() -> None:
        for n in range(1, 40):
            await routing.replace(tables[n % 2])

    changing = asyncio.create_task(change())
    seen = set()
    while not changing.done():
        plan = await routing.read()
        assert list(plan.routes) == tables[(plan.version - 1) % 2]
        seen.add(plan.version)
    await changing
    assert len(seen) > 3


async def test_a_change_cut_off_anywhere_is_whole_or_not_there(url: str, routing: Routing) -> None:
    await routing.replace([EVERYWHERE])
    lost_after_the_commit = 0
    async with Proxy.to(url) as proxy:
        pool = await Pool.connect(proxy.url(url), timeout_s=2)
        far = Routing(pool, NAMES)
        # Shorter steps than the answer to COMMIT, 18 octets, so that it is cut off once at least.
        for answer_bytes in range(1, 20_000, 16):
            wanted = (Route(prefix=f"+{answer_bytes}", providers=("a",)), IRAN)
            before = await routing.read()
            proxy.truncate_after(answer_bytes)
            try:
                await far.replace(wanted)
            except Unavailable:
                after = await routing.read()
                assert after.routes in (before.routes, wanted)
                lost_after_the_commit += after.routes == wanted
                assert (await routing.replace(wanted)).version == before.version + 1
            else:
                break
        assert lost_after_the_commit > 0
        await pool.close()


async def test_the_copy_holds_the_newest_plan_whoever_put_it_last(link: RedisLink) -> None:
    copy = RoutingCopy(link)
    assert await copy.newest() is None
    full = plan(7, routes=(EVERYWHERE, CODES), paused=("b",), throughput={"a": 1.5})
    await copy.put(plan(6))
    await copy.put(full)
    for stale in (3, 6, 7):
        await copy.put(full if stale == 7 else plan(stale))
        assert await copy.newest() == full
        assert await link.call("ZCARD", "routing:plan") == 1
    await asyncio.gather(*(RoutingCopy(link).put(plan(v)) for v in (9, 11, 8, 10, 11)))
    assert await copy.newest() == plan(11)


async def test_a_copy_that_cannot_be_read_is_none(link: RedisLink) -> None:
    copy = RoutingCopy(link)
    await link.call("ZADD", "routing:plan", 1, b"\xc1")
    assert await copy.newest() is None
    await copy.put(plan(2))
    assert await copy.newest() == plan(2)
    await link.call("SET", "routing:plan", "x")
    assert await copy.newest() is None
    with pytest.raises(Unavailable, match="does not keep the routing plan"):
        await copy.put(plan(3))
