"""API keys: who is let in, and what is remembered for how long."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import pytest
from aiohttp.test_utils import make_mocked_request

from engine import api_keys
from engine.api import key_cache
from engine.api.auth import Keys
from engine.errors import Refusal, Unavailable
from engine.organisations import Credential, NewOrganisation
from engine.stores.postgres.api_key_book import ApiKeyBook
from engine.stores.postgres.directory import Directory
from tests.adversity.proxy import Proxy
from tests.api.world import ADMIN_KEY, Api, services_with, serving, until
from tests.delivery.turns import VirtualTime

# The keys here are good from everywhere, so nothing of a request is looked at.
HERE = make_mocked_request("GET", "/")


class Watched(Directory):
    """The real directory; counts the lookups and can hold them up."""

    lookups: list[list[int]]
    # How many of them have ended; what asked has taken the answer in the same step of the loop.
    answered: int
    gate: asyncio.Event
    entered: asyncio.Event

    @classmethod
    async def of(cls, url: str) -> Watched:
        directory = await cls.connect(url, shards=16, timeout_s=2.0)
        assert isinstance(directory, cls)
        directory.lookups, directory.answered = [], 0
        directory.gate, directory.entered = asyncio.Event(), asyncio.Event()
        directory.gate.set()
        return directory

    async def credentials(self, key_ids: Sequence[int]) -> dict[int, Credential]:
        self.lookups.append(list(key_ids))
        self.entered.set()
        await self.gate.wait()
        try:
            return await super().credentials(key_ids)
        finally:
            self.answered += 1


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def bearer(api_key: str) -> str:
    return f"Bearer {api_key}"


def key_id_of(api_key: str) -> int:
    return int(api_key.split("_")[1])


async def settled(directory: Watched, lookups: int) -> None:
    """Until so many lookups have been made and answered."""
    await until(lambda: directory.answered >= lookups)


@pytest.fixture
async def watched(directory_url: str) -> Watched:
    return await Watched.of(directory_url)


def wrong_secret(api_key: str) -> str:
    return api_key[:-5] + ("AAAAA" if not api_key.endswith("AAAAA") else "BBBBB")


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/batch"])
async def test_who_shows_no_good_key_is_not_let_in(api: Api, path: str) -> None:
    good = api.api_key
    _, key_id, secret = good.split("_", 2)
    for authorization in (
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {good}x",
        f"Bearer {good[:-1]}",
        f"Basic {good}",
        good,
        f"Bearer {good},{good}",
        f"Bearer {wrong_secret(good)}",
        f"Bearer smse_999999999999999999_{secret}",
        f"Bearer smse_9999999999999999999_{secret}",
        f"Bearer smse_0{key_id}_{secret}",
        f"Bearer smse_\u0661_{secret}",
        f"Bearer {ADMIN_KEY}",
        "Bearer " + "x" * 5000,
    ):
        status, headers, reply = await api.ask("POST", path, {}, key="", Authorization=authorization)
        assert (status, reply["code"]) == (401, "unauthorised"), authorization
        assert headers["WWW-Authenticate"].startswith("Bearer")
        assert headers["Content-Type"] == "application/problem+json"


async def test_no_header_at_all_is_not_let_in(api: Api) -> None:
    for method, path in (("POST", "/v1/messages"), ("GET", "/v1/balance"), ("GET", "/v1/messages/x")):
        assert (await api.ask(method, path, key=""))[0] == 401


async def test_the_scheme_is_case_insensitive_and_any_blanks_may_follow_it(api: Api) -> None:
    for scheme in ("bearer", "BEARER", "Bearer  "):
        assert (await api.ask("GET", "/v1/balance", key="", Authorization=f"{scheme} {api.api_key}"))[
            0
        ] == 200


async def test_an_api_key_does_not_open_the_admin_calls(api: Api) -> None:
    for key in ("", api.api_key, ADMIN_KEY[:-1], ADMIN_KEY + "x"):
        status, headers, reply = await api.ask("GET", "/v1/admin/status", key=key)
        assert (status, reply["code"]) == (401, "unauthorised")
        assert headers["WWW-Authenticate"].startswith("Bearer")


async def test_an_empty_admin_key_opens_nothing(directory: Directory) -> None:
    async with serving(await services_with(directory, admin_key_sha256=api_keys.digest(""))) as api:
        for header in ({}, {"Authorization": "Bearer "}, {"Authorization": "x"}):
            assert (await api.ask("GET", "/v1/admin/organisations", key="", **header))[0] == 401


async def test_one_lookup_serves_all_that_wait_for_the_same_key(
    watched: Watched, acme: NewOrganisation
) -> None:
    known = Keys(watched)
    watched.gate.clear()
    asked = [asyncio.create_task(known.organisation(bearer(acme.api_key), HERE)) for _ in range(50)]
    async with asyncio.timeout(60):
        await watched.entered.wait()
        late = asyncio.create_task(known.organisation(bearer(acme.api_key), HERE))
        # One that gives up takes nothing from the others.
        asked.pop().cancel()
        await asyncio.sleep(0)
        watched.gate.set()
        assert await asyncio.gather(*asked, late) == [acme.id] * 50
    assert watched.lookups == [[key_id_of(acme.api_key)]]
    await known.close()
    await watched.close()


async def test_keys_wanted_during_a_lookup_go_together_with_the_next(watched: Watched) -> None:
    known = Keys(watched)
    made = [await watched.create_organisation(f"Batch {i}") for i in range(20)]
    watched.gate.clear()
    first = asyncio.create_task(known.organisation(bearer(made[0].api_key), HERE))
    async with asyncio.timeout(60):
        await watched.entered.wait()
        others = [asyncio.create_task(known.organisation(bearer(o.api_key), HERE)) for o in made[1:]]
        await asyncio.sleep(0)
        watched.gate.set()
        assert await asyncio.gather(first, *others) == [o.id for o in made]
    assert [len(ids) for ids in watched.lookups] == [1, 19]
    await watched.close()


async def test_a_revoked_key_is_refused_once_its_entry_is_old(watched: Watched) -> None:
    clock = Clock()
    known = Keys(watched, fresh_s=10, unknown_s=1, clock=clock)
    made = await watched.create_organisation("Revoked")
    assert await known.organisation(bearer(made.api_key), HERE) == made.id
    await ApiKeyBook(watched.pool).revoke(made.id, key_id_of(made.api_key))
    clock.now += 4
    assert await known.organisation(bearer(made.api_key), HERE) == made.id
    assert len(watched.lookups) == 1
    clock.now += 6
    with pytest.raises(Refusal, match="not revoked"):
        await known.organisation(bearer(made.api_key), HERE)
    await watched.close()


async def test_a_busy_key_is_looked_up_again_before_it_is_old(
    watched: Watched, acme: NewOrganisation
) -> None:
    clock = Clock()
    known = Keys(watched, fresh_s=10, clock=clock)
    await known.organisation(bearer(acme.api_key), HERE)
    watched.gate.clear()
    clock.now += 6
    # Answered although the lookup that it begins is held up.
    assert await known.organisation(bearer(acme.api_key), HERE) == acme.id
    watched.gate.set()
    await settled(watched, 2)
    clock.now += 6
    watched.gate.clear()
    assert await known.organisation(bearer(acme.api_key), HERE) == acme.id
    watched.gate.set()
    await known.close()
    await watched.close()


async def test_an_unknown_key_is_asked_for_once_a_second(watched: Watched) -> None:
    clock = Clock()
    known = Keys(watched, unknown_s=1, clock=clock)
    unknown = api_keys.key_text(10**17, api_keys.new_secret())
    for lookups, step_s in ((1, 0.5), (1, 0.6), (2, 0.0)):
        with pytest.raises(Refusal):
            await known.organisation(bearer(unknown), HERE)
        assert len(watched.lookups) == lookups
        clock.now += step_s
    await watched.close()


async def test_a_wrong_secret_does_not_cost_the_right_one_its_entry(
    watched: Watched, acme: NewOrganisation
) -> None:
    known = Keys(watched)
    await known.organisation(bearer(acme.api_key), HERE)
    for _ in range(3):
        with pytest.raises(Refusal):
            await known.organisation(bearer(wrong_secret(acme.api_key)), HERE)
    assert await known.organisation(bearer(acme.api_key), HERE) == acme.id
    assert len(watched.lookups) == 1
    await watched.close()


async def test_the_least_recently_used_key_is_forgotten_first(watched: Watched) -> None:
    known = Keys(watched, entries_max=2)
    first, second, third = [await watched.create_organisation(name) for name in ("A", "B", "C")]
    for organisation in (first, second, first, third, first):
        await known.organisation(bearer(organisation.api_key), HERE)
    assert len(watched.lookups) == 3
    await known.organisation(bearer(second.api_key), HERE)
    assert len(watched.lookups) == 4
    await watched.close()


async def test_known_keys_stay_good_while_postgres_is_away(
    directory_url: str, directory: Directory, acme: NewOrganisation, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Proxy.to(directory_url) as proxy:
        watched = await Watched.of(proxy.url(directory_url))
        clock = Clock()
        known = Keys(watched, fresh_s=10, stale_s=300, clock=clock)
        other = await directory.create_organisation("Never seen")
        assert await known.organisation(bearer(acme.api_key), HERE) == acme.id
        proxy.refuse()
        for step_s in (11, 100, 188):
            clock.now += step_s
            assert await known.organisation(bearer(acme.api_key), HERE) == acme.id
            with pytest.raises(Refusal):
                await known.organisation(bearer(wrong_secret(acme.api_key)), HERE)
            with pytest.raises(Unavailable):
                await known.organisation(bearer(other.api_key), HERE)
        clock.now += 2
        with pytest.raises(Unavailable):
            await known.organisation(bearer(acme.api_key), HERE)
        # As long as it may take to connect again here.
        monkeypatch.setattr(key_cache, "_LATE_S", 60.0)
        proxy.admit()
        async with asyncio.timeout(60):
            assert await known.organisation(bearer(acme.api_key), HERE) == acme.id
            assert await known.organisation(bearer(other.api_key), HERE) == other.id
        await known.close()
        await watched.close()


async def test_a_stale_key_does_not_wait_for_a_postgres_that_hangs(
    directory_url: str, acme: NewOrganisation
) -> None:
    async with Proxy.to(directory_url) as proxy:
        watched = await Watched.of(proxy.url(directory_url))
        clock = Clock()
        known = Keys(watched, fresh_s=10, stale_s=300, clock=clock)
        await known.organisation(bearer(acme.api_key), HERE)
        proxy.refuse()
        clock.now += 11
        await known.organisation(bearer(acme.api_key), HERE)
        await settled(watched, 2)
        watched.gate.clear()
        clock.now += 11
        async with asyncio.timeout(60):
            assert await known.organisation(bearer(acme.api_key), HERE) == acme.id
        watched.gate.set()
        await known.close()
        await watched.close()


async def test_an_unknown_key_does_not_wait_for_a_postgres_that_hangs_and_is_known_when_it_answers(
    watched: Watched, acme: NewOrganisation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_cache, "_PATIENCE_S", 0.05)
    known = Keys(watched)
    watched.gate.clear()
    for _ in range(2):
        with pytest.raises(Unavailable, match="cannot be looked up now"):
            await known.organisation(bearer(acme.api_key), HERE)
    # The lookup goes on without them.
    monkeypatch.setattr(key_cache, "_PATIENCE_S", 60.0)
    watched.gate.set()
    assert await known.organisation(bearer(acme.api_key), HERE) == acme.id
    assert len(watched.lookups) == 1
    # After one that failed nobody waits as long as the first.
    monkeypatch.setattr(key_cache, "_LATE_S", 0.05)
    other = await watched.create_organisation("Other")
    known.cache._away = True
    watched.gate.clear()
    with pytest.raises(Unavailable, match="cannot be looked up now"):
        await known.organisation(bearer(other.api_key), HERE)
    monkeypatch.setattr(key_cache, "_LATE_S", 60.0)
    watched.gate.set()
    assert await known.organisation(bearer(other.api_key), HERE) == other.id
    await known.close()
    await watched.close()


async def test_a_failing_lookup_is_not_remembered(directory: Directory, acme: NewOrganisation) -> None:
    class Failing(Watched):
        fails = True

        async def credentials(self, key_ids: Sequence[int]) -> dict[int, Credential]:
            if self.fails:
                raise ZeroDivisionError
            return await directory.credentials(key_ids)

    failing = Failing(directory._pool, 16)
    known = Keys(failing)
    with pytest.raises(ZeroDivisionError):
        await known.organisation(bearer(acme.api_key), HERE)
    failing.fails = False
    while True:
        # A look-up that is not waited for to its end goes on, for the next request.
        with contextlib.suppress(Unavailable):
            assert await known.organisation(bearer(acme.api_key), HERE) == acme.id
            break


def test_a_key_is_read_as_it_was_written() -> None:
    for _ in range(100):
        secret = api_keys.new_secret()
        assert api_keys.bearer_key(f"Bearer {api_keys.key_text(7, secret)}") == (7, secret)
        assert len(api_keys.digest(secret)) == 32


async def test_a_key_known_a_moment_ago_does_not_wait_for_a_slow_lookup(
    watched: Watched, acme: NewOrganisation
) -> None:
    clock = Clock()
    known = Keys(watched, fresh_s=1, slow_s=10, clock=clock)
    await known.organisation(bearer(acme.api_key), HERE)
    watched.gate.clear()
    clock.now += 0.6
    await known.organisation(bearer(acme.api_key), HERE)
    await until(lambda: len(watched.lookups) == 2)
    for step_s in (1, 7):
        clock.now += step_s
        assert await known.organisation(bearer(acme.api_key), HERE) == acme.id
    clock.now += 3
    waits = asyncio.create_task(known.organisation(bearer(acme.api_key), HERE))
    await asyncio.sleep(0)
    assert not waits.done()
    watched.gate.set()
    assert await waits == acme.id
    await known.close()
    await watched.close()


async def test_keys_that_age_are_looked_up_together(watched: Watched) -> None:
    clock = Clock()
    known = Keys(watched, fresh_s=1, clock=clock)
    made = [await watched.create_organisation(f"Ageing {i}") for i in range(5)]
    for organisation in made:
        await known.organisation(bearer(organisation.api_key), HERE)
    clock.now += 0.6
    for organisation in made:
        assert await known.organisation(bearer(organisation.api_key), HERE) == organisation.id
    await settled(watched, 6)
    assert sorted(watched.lookups[-1]) == sorted(key_id_of(o.api_key) for o in made)
    await known.close()
    await watched.close()


def test_keys_that_come_one_after_another_share_lookups_and_the_first_does_not_wait() -> None:
    asked: list[tuple[float, list[int]]] = []
    credential = Credential(key_id=1, organisation_id=1, secret_sha256=api_keys.digest("x"), scopes=("send",))

    async def look_up(key_ids: Sequence[int]) -> dict[int, Credential]:
        asked.append((virtual.clock.now, list(key_ids)))
        await asyncio.sleep(0.0005)
        return dict.fromkeys(key_ids, credential)

    async def callers() -> None:
        for key_id in range(100):
            found.append(asyncio.ensure_future(cache.found(key_cache.Presented(key_id, "x"))))
            await asyncio.sleep(0.001)

    with VirtualTime() as virtual:
        found: list[asyncio.Future[Credential]] = []
        cache = key_cache.KeyCache(look_up, "a key", clock=virtual.clock_s)
        virtual.start(callers())
        virtual.pass_s(1.0)
        assert [task.result() for task in found] == [credential] * 100
        assert asked[0][0] < 0.001
        assert asked[0][1] == [0]
        assert len(asked) <= 12
