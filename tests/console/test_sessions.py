"""Log in and out of the console, and what ends a session."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engine import api_keys
from engine.console.attempts import BURST, EACH_S, Attempts
from engine.console.records import digest_of
from engine.console.sessions import AGE_S, FRESH_S, STALE_S, Sessions
from engine.errors import Refusal, TooMany, Unavailable
from engine.organisations import NewOrganisation
from engine.redis_keys import console_session_key
from engine.stores.postgres.directory import Directory
from engine.stores.redis.link import RedisLink
from tests.api.world import ADMIN_KEY
from tests.console.world import Console, open_console, redis_sessions


async def test_an_admin_key_logs_in_and_its_session_does_the_admin_calls(console: Console) -> None:
    before = datetime.now(UTC)
    logged_in = await console.log_in(ADMIN_KEY)
    facts = logged_in.facts
    assert (facts["kind"], facts["name"], facts["scopes"]) == ("admin", "configuration", ["all"])
    assert "organisation_id" not in facts
    assert datetime.fromisoformat(facts["ends_at"]) <= before + timedelta(seconds=AGE_S + 60)
    again = await console.ask("GET", "/console/session", headers=logged_in.headers(csrf=""))
    assert (again.status, again.body) == (200, facts)
    reply = await console.ask("GET", "/console/api/v1/admin/status", headers=logged_in.headers(csrf=""))
    assert (reply.status, reply.body["node"]) == (200, "test")


async def test_an_organisation_logs_in_with_its_key(console: Console, acme: NewOrganisation) -> None:
    facts = (await console.log_in(acme.api_key)).facts
    assert (facts["kind"], facts["name"], facts["organisation_id"]) == ("organisation", "Acme", acme.id)
    assert set(facts["scopes"]) == {"send", "read"}


async def test_the_cookie_is_out_of_reach_of_scripts_and_other_pages(console: Console) -> None:
    for origin, secure in (("https://sms.example.org", True), (f"http://127.0.0.1:{console.port}", False)):
        headers = {"Origin": origin, "Sec-Fetch-Site": "same-origin"}
        reply = await console.ask("POST", "/console/session", {"key": ADMIN_KEY}, headers)
        cookie = reply.cookie
        assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Strict", "/console")
        assert bool(cookie["secure"]) == secure
        assert not cookie["domain"]
        assert int(cookie["max-age"]) == AGE_S


async def test_logging_out_ends_the_session_for_whoever_has_its_cookie(console: Console) -> None:
    logged_in = await console.log_in(ADMIN_KEY)
    reply = await console.ask("DELETE", "/console/session", headers=logged_in.headers(csrf=""))
    assert (reply.status, reply.body["code"]) == (403, "csrf_token_wrong")
    reply = await console.ask("DELETE", "/console/session", headers=logged_in.headers())
    assert (reply.status, reply.cookie.value, reply.cookie["max-age"]) == (204, "", "0")
    for path in ("/console/session", "/console/api/v1/admin/status", "/console/live"):
        assert (await console.ask("GET", path, headers=logged_in.headers())).status == 401


async def test_a_log_in_takes_no_id_from_outside_and_ends_the_session_before_it(console: Console) -> None:
    chosen = "A" * 43
    headers = {"Cookie": f"smsengine_console={chosen}"}
    first = await console.log_in(ADMIN_KEY, headers)
    assert first.cookie != chosen
    second = await console.log_in(ADMIN_KEY, first.headers(csrf=""))
    assert second.cookie != first.cookie
    assert (await console.ask("GET", "/console/session", headers=first.headers())).status == 401
    assert (await console.ask("GET", "/console/session", headers=second.headers())).status == 200


@pytest.mark.parametrize(
    "cookie",
    ["", "smsengine_console=", f"smsengine_console={'A' * 43}", f"smsengine_console={'A' * 7000}",
     "smsengine_console=../../x", f"other={'A' * 43}", f"smsengine_console={'%41' * 43}"],
)  # fmt: skip
async def test_a_cookie_that_is_no_session_is_401(console: Console, cookie: str) -> None:
    reply = await console.ask("GET", "/console/api/v1/admin/status", headers={"Cookie": cookie})
    assert (reply.status, reply.body["code"]) == (401, "unauthorised")


async def test_two_cookies_that_differ_are_none(console: Console) -> None:
    """A page of a neighbouring host can add a cookie of that name, and not take ours away."""
    logged_in = await console.log_in(ADMIN_KEY)
    other = await console.log_in(ADMIN_KEY)
    for cookies, status in (((logged_in, other), 401), ((other, logged_in), 401), ((other, other), 200)):
        headers = {"Cookie": "; ".join(f"smsengine_console={one.cookie}" for one in cookies)}
        assert (await console.ask("GET", "/console/session", headers=headers)).status == status


@pytest.mark.parametrize("makes", ["admin", "organisation"])
async def test_a_key_that_is_revoked_ends_its_sessions(
    console: Console, directory: Directory, link: RedisLink, pages: Path, makes: str
) -> None:
    """The next request that looks the key up, which is due after a second, finds it gone."""
    if makes == "admin":
        made = await console.services.admin_keys.create("revoked", ("read",), None)
        key, path = made.admin_key, "/console/api/v1/admin/status"
    else:
        new = await directory.create_organisation("Revoked")
        key, path = new.api_key, "/console/session"
    logged_in = await console.log_in(key)
    assert (await console.ask("GET", path, headers=logged_in.headers())).status == 200
    if makes == "admin":
        await console.services.admin_keys.revoke(made.id)
    else:
        key_id = api_keys.bearer_key(f"Bearer {new.api_key}")
        assert key_id is not None
        await console.services.api_keys.revoke(new.id, key_id[0])
    # Another process has no memory of the key, so nothing has to be waited for.
    async with open_console(directory, link, pages) as other:
        reply = await other.ask("GET", path, headers=logged_in.headers())
        assert (reply.status, reply.body["code"]) == (401, "unauthorised")


async def test_a_session_is_good_in_every_process_and_after_a_restart(
    console: Console, directory: Directory, link: RedisLink, pages: Path
) -> None:
    logged_in = await console.log_in(ADMIN_KEY)
    async with open_console(directory, link, pages) as other:
        assert (await other.ask("GET", "/console/session", headers=logged_in.headers())).status == 200
        other_key = b"\0" * 32
        async with open_console(directory, link, pages, admin_key_sha256=other_key) as changed:
            reply = await changed.ask("GET", "/console/session", headers=logged_in.headers())
            assert reply.status == 401, "the key of the configuration is another one there"


async def test_redis_has_neither_the_key_nor_the_id_of_a_session(console: Console, link: RedisLink) -> None:
    logged_in = await console.log_in(ADMIN_KEY)
    names = await link.call("KEYS", "console:*")
    kept = [await link.call("GET", name) for name in names if name.startswith(b"console:session:")]
    assert kept
    everything = b"".join([*names, *kept])
    assert ADMIN_KEY.encode() not in everything
    assert logged_in.cookie.encode() not in everything
    assert 0 < await link.call("TTL", console_session_key(digest_of(logged_in.cookie))) <= 3_600


async def test_a_key_has_so_many_sessions_and_its_oldest_ends(link: RedisLink) -> None:
    now_us, clock_s = [10**15], [0.0]
    sessions = Sessions(redis_sessions(link, per_key_max=3), lambda: now_us[0], lambda: clock_s[0])
    other, _ = await sessions.open("admin", 77, b"k" * 32)
    opened = [(await sessions.open("admin", 78, b"k" * 32))[0] for _ in range(5)]
    for session_id in opened[:2]:
        with pytest.raises(Refusal):
            await sessions.found(session_id)
    for session_id in (*opened[2:], other):
        assert (await sessions.found(session_id)).kind == "admin"


async def test_a_session_ends_unused_and_at_its_age(link: RedisLink) -> None:
    now_us, clock_s = [10**15], [0.0]
    sessions = Sessions(redis_sessions(link, idle_s=100), lambda: now_us[0], lambda: clock_s[0])
    session_id, _ = await sessions.open("admin", 79, b"k" * 32)
    name = console_session_key(digest_of(session_id))
    await link.call("EXPIRE", name, 5)
    await sessions.found(session_id)
    assert await link.call("TTL", name) > 5, "a use does not prolong it"
    now_us[0] += AGE_S * 1_000_000 - 1
    assert await sessions.found(session_id)
    now_us[0] += 1
    with pytest.raises(Refusal):
        await sessions.found(session_id)


class _Away:
    """A store that has one session, until it is away."""

    def __init__(self) -> None:
        self.kept: dict[bytes, bytes] = {}
        self.is_away = False

    async def keep(self, owner: str, digest: bytes, session: bytes) -> None:
        self.kept[digest] = session

    async def use(self, digest: bytes) -> bytes | None:
        if self.is_away:
            raise Unavailable("away")
        return self.kept.get(digest)

    async def drop(self, digest: bytes) -> None:
        del self.kept[digest]


async def test_a_session_outlives_an_outage_of_redis_for_a_while() -> None:
    store, clock_s = _Away(), [0.0]
    sessions = Sessions(store, lambda: 10**15, lambda: clock_s[0])
    seen, _ = await sessions.open("admin", 1, b"k" * 32)
    unseen, _ = await sessions.open("admin", 1, b"k" * 32)
    await sessions.found(seen)
    store.is_away = True
    clock_s[0] = STALE_S - 1
    assert await sessions.found(seen)
    with pytest.raises(Unavailable):
        await sessions.found(unseen)
    clock_s[0] = STALE_S
    with pytest.raises(Unavailable):
        await sessions.found(seen)


async def test_a_session_that_another_process_ended_is_over_within_half_a_second() -> None:
    store, clock_s = _Away(), [0.0]
    sessions = Sessions(store, lambda: 10**15, lambda: clock_s[0])
    session_id, _ = await sessions.open("admin", 1, b"k" * 32)
    await sessions.found(session_id)
    store.kept.clear()
    clock_s[0] = FRESH_S
    with pytest.raises(Refusal):
        await sessions.found(session_id)


async def test_what_another_version_has_kept_is_no_session() -> None:
    store = _Away()
    sessions = Sessions(store, lambda: 10**15)
    session_id, _ = await sessions.open("admin", 1, b"k" * 32)
    store.kept[digest_of(session_id)] = b"\x93another"
    with pytest.raises(Refusal):
        await sessions.found(session_id)


def test_attempts_that_fail_are_limited_by_source() -> None:
    now = [0.0]
    attempts = Attempts(lambda: now[0])
    for _ in range(BURST):
        attempts.take("192.0.2.1")
    with pytest.raises(TooMany) as refused:
        attempts.take("192.0.2.1")
    assert refused.value.retry_after_s == EACH_S
    attempts.take("192.0.2.2")
    attempts.give_back("192.0.2.1")
    attempts.take("192.0.2.1")
    now[0] += EACH_S
    attempts.take("192.0.2.1")
    for number in range(BURST):
        attempts.take(f"2001:db8::{number + 1}")
    with pytest.raises(TooMany):
        attempts.take("2001:db8::ffff")
