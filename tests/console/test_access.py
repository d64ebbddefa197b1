"""Who may do what: forged calls, calls of the wrong kind of session, and log-ins that fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.console import attempts
from engine.organisations import ApiKeyWish, NewOrganisation
from engine.stores.postgres.directory import Directory
from engine.stores.redis.link import RedisLink
from tests.api.world import ADMIN_KEY
from tests.console.world import Console, open_console

PAUSE = "/console/api/v1/admin/queues/normal/pause"


async def admin_calls(console: Console) -> list[tuple[str, str]]:
    """(method, path) of every admin call, as the OpenAPI document says."""
    document = (await console.ask("GET", "/openapi.json")).body
    names = {"queue": "normal", "name": "first", "organisation_id": "1", "key_id": "1"}
    return [
        (method.upper(), path.format_map(_Names(names)))
        for path, of in document["paths"].items()
        for method in of
        if path.startswith("/v1/admin/")
    ]


class _Names(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return "1"


async def test_no_admin_call_is_reached_by_an_organisation_or_by_nobody(
    console: Console, acme: NewOrganisation
) -> None:
    own, calls = await console.log_in(acme.api_key), await admin_calls(console)
    assert len(calls) > 60
    for method, path in calls:
        # A key in the header counts for nothing here, with a session and without.
        key = {"Authorization": f"Bearer {ADMIN_KEY}"}
        reply = await console.ask(method, f"/console/api{path}", headers=own.headers() | key)
        assert (reply.status, reply.body["code"]) == (403, "scope_missing"), (method, path)
        reply = await console.ask(method, f"/console/api{path}", headers=key)
        assert (reply.status, reply.body["code"]) == (401, "unauthorised"), (method, path)


async def test_every_admin_call_is_there_and_needs_the_same_scope(console: Console) -> None:
    """A key that only reads gets the same status by its session as by itself, call by call."""
    made = await console.services.admin_keys.create("reader", ("read",), None)
    reader = await console.log_in(made.admin_key)
    allowed = 0
    for method, path in await admin_calls(console):
        by_key = await console.ask(method, path, headers={"Authorization": f"Bearer {made.admin_key}"})
        by_session = await console.ask(method, f"/console/api{path}", headers=reader.headers())
        assert by_session.status == by_key.status, (method, path, by_session)
        if by_key.status == 403:
            assert by_session.body["detail"] == by_key.body["detail"]
        allowed += by_key.status == 200
    assert allowed > 20


@pytest.mark.parametrize(
    ("path", "has"),
    [("balance", "it has none"), ("balance/transactions", "there are limit, cursor")],
)
async def test_a_parameter_that_a_call_does_not_have_is_refused_by_the_console_too(
    console: Console, acme: NewOrganisation, path: str, has: str
) -> None:
    own = await console.log_in(acme.api_key)
    reply = await console.ask("GET", f"/console/api/v1/{path}?organisation=2", headers=own.headers())
    assert reply.status == 422
    assert reply.body["detail"] == f"`organisation` is no parameter of this call; {has}."


async def test_a_change_is_recorded_with_the_name_of_the_key(console: Console) -> None:
    made = await console.services.admin_keys.create("operator", ("operate",), None)
    operator = await console.log_in(made.admin_key)
    reply = await console.ask("POST", PAUSE, {"reason": "by hand"}, operator.headers())
    assert reply.status == 200
    await console.ask("POST", PAUSE.replace("pause", "resume"), headers=operator.headers())
    reply = await console.ask("GET", "/console/api/v1/admin/changes?limit=2", headers=operator.headers())
    assert {change["key"] for change in reply.body["changes"]} == {"operator"}
    assert {change["action"].rpartition("/")[2] for change in reply.body["changes"]} == {"pause", "resume"}


@pytest.mark.parametrize("first", ["key", "session"])
async def test_a_call_that_is_repeated_the_other_way_is_a_repetition(console: Console, first: str) -> None:
    operator = await console.log_in(ADMIN_KEY)
    made = await console.ask(
        "POST",
        "/v1/admin/organisations",
        {"name": f"Repeated by {first}"},
        {"Authorization": f"Bearer {ADMIN_KEY}"},
    )
    of = f"/v1/admin/organisations/{made.body['id']}"
    calls: list[tuple[str, object]] = [
        (PAUSE.removeprefix("/console/api"), {"reason": "by hand"}),
        (f"{of}/top-ups", {"units": 5, "reference": f"by {first}"}),
    ]
    for path, body in calls:
        once = {"Idempotency-Key": f"{first} {path}"}
        ways = [(path, {"Authorization": f"Bearer {ADMIN_KEY}"}), (f"/console/api{path}", operator.headers())]
        if first == "session":
            ways.reverse()
        replies = [await console.ask("POST", way, body, headers | once) for way, headers in ways]
        assert [reply.status // 100 for reply in replies] == [2, 2], (path, replies)
        assert replies[0].body == replies[1].body
        # Another call with this key is refused, whichever way it comes.
        for way, headers in ways:
            assert (await console.ask("POST", way, {"other": 1}, headers | once)).status in (409, 422)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("token", ["", "0" * 64, "é", "another"])
async def test_no_call_that_changes_something_is_made_without_the_token(
    console: Console, method: str, token: str
) -> None:
    logged_in = await console.log_in(ADMIN_KEY)
    if token == "another":
        token = (await console.log_in(ADMIN_KEY)).csrf
    path = {"PUT": "prices", "PATCH": "organisations/1", "DELETE": "admin-keys/1"}.get(method)
    path = PAUSE if path is None else f"/console/api/v1/admin/{path}"
    reply = await console.ask(method, path, {}, logged_in.headers(csrf=token))
    assert (reply.status, reply.body["code"]) == (403, "csrf_token_wrong")


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "none"},
     {"Origin": "https://attacker.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"},
     {"Origin": "http://["}, {"Origin": ""},
     {"Sec-Fetch-Site": "cross-site", "Origin": "http://HOST"}],
)  # fmt: skip
async def test_a_page_of_another_origin_can_do_nothing(console: Console, headers: dict[str, str]) -> None:
    headers = {k: v.replace("HOST", f"127.0.0.1:{console.port}") for k, v in headers.items()}
    logged_in = await console.log_in(ADMIN_KEY)
    for method, path, body in (
        ("POST", PAUSE, {}),
        ("POST", "/console/session", {"key": ADMIN_KEY}),
        ("DELETE", "/console/session", None),
    ):
        reply = await console.ask(method, path, body, logged_in.headers() | headers)
        assert (reply.status, reply.body["code"]) == (403, "foreign_origin"), (method, path)
    assert (await console.ask("GET", "/console/session", headers=logged_in.headers())).status == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_a_form_cannot_log_a_browser_in(console: Console, kind: str) -> None:
    """An old browser that sends neither header: a form of another page must not begin a session."""
    headers = {"Content-Type": kind}
    reply = await console.ask("POST", "/console/session", {"key": ADMIN_KEY}, headers)
    assert (reply.status, reply.body["field"]) == (422, "Content-Type")
    assert "Set-Cookie" not in reply.headers


async def test_every_key_that_is_wrong_has_the_same_answer(
    directory: Directory, link: RedisLink, pages: Path, acme: NewOrganisation
) -> None:
    async with open_console(directory, link, pages) as console:
        wrong = [
            "",
            "x",
            "smsa_1_" + "A" * 43,
            "smse_1_" + "A" * 43,
            acme.api_key[:-1] + "~",
            ADMIN_KEY + "x",
        ]
        replies = [await console.ask("POST", "/console/session", {"key": key}) for key in wrong]
        assert {reply.status for reply in replies} == {401}
        assert len({(r.body["code"], r.body["detail"], r.body["field"]) for r in replies}) == 1
        assert not any("Set-Cookie" in reply.headers for reply in replies)


async def test_too_many_attempts_are_429_also_with_a_good_key(
    directory: Directory, link: RedisLink, pages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "EACH_S", 3_600.0)
    async with open_console(directory, link, pages) as console:
        for body in ({"key": "x" * 5_000}, {"key": 1}, {}, b"no json", {"key": ADMIN_KEY, "more": 1}) * 2:
            reply = await console.ask("POST", "/console/session", body)
            assert reply.status in (400, 413, 422), reply
        reply = await console.ask("POST", "/console/session", {"key": ADMIN_KEY})
        assert (reply.status, reply.body["code"]) == (429, "too_many_logins")
        assert int(reply.headers["Retry-After"]) > 0


async def test_a_good_key_logs_in_as_often_as_it_likes(console: Console) -> None:
    for _ in range(25):
        await console.log_in(ADMIN_KEY)


async def test_keys_and_cookies_are_in_no_line_of_the_log(
    console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    logged_in = await console.log_in(ADMIN_KEY)
    await console.ask("POST", "/console/session", {"key": "wrong-key"})
    await console.ask("POST", PAUSE, {}, logged_in.headers(csrf="x"))
    written = "".join(capsys.readouterr())
    assert not any(word in written for word in (ADMIN_KEY, "wrong-key", logged_in.cookie, logged_in.csrf))


async def test_a_key_of_some_networks_is_good_from_those_alone(console: Console) -> None:
    made = await console.services.admin_keys.create("far", ("read",), None, networks=("192.0.2.0/24",))
    reply = await console.ask("POST", "/console/session", {"key": made.admin_key})
    assert (reply.status, reply.body["code"]) == (403, "network_not_allowed")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("PUT", "/console/session", 405), ("POST", "/console", 405), ("POST", "/console/live", 405),
     ("GET", "/console/api/v1/admin/none", 404), ("GET", "/console/api/metrics", 404),
     ("GET", "/console/api//v1/admin/status", 404), ("GET", "/console/api/../v1/admin/status", 404),
     ("GET", "/console/api/", 404), ("POST", "/console/none", 405)],
)  # fmt: skip
async def test_what_is_not_there_is_a_problem_with_the_headers_of_the_console(
    console: Console, method: str, path: str, status: int
) -> None:
    host = f"Host: 127.0.0.1:{console.port}\r\nConnection: close\r\n\r\n"
    answer = await console.raw(f"{method} {path} HTTP/1.1\r\n{host}".encode())
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
    assert b"Content-Security-Policy: default-src 'none'" in answer


async def test_no_answer_of_the_console_may_be_kept_or_framed(console: Console) -> None:
    logged_in = await console.log_in(ADMIN_KEY)
    for path in ("/console/session", "/console/api/v1/admin/status", "/console/api/v1/admin/prices"):
        reply: Any = await console.ask("GET", path, headers=logged_in.headers())
        assert reply.headers["Cache-Control"] == "no-store"
        assert "frame-ancestors 'none'" in reply.headers["Content-Security-Policy"]


async def test_an_organisation_sees_what_its_key_may_see_and_nothing_of_others(
    console: Console, acme: NewOrganisation, directory: Directory
) -> None:
    await directory.top_up(acme.id, 77, "console")
    own = await console.log_in(acme.api_key)
    other = await console.log_in((await directory.create_organisation("Other")).api_key)
    for who, units in ((own, 77), (other, 0)):
        reply = await console.ask("GET", "/console/api/v1/balance", headers=who.headers())
        assert (reply.status, reply.body["available"]) == (200, units)
    reads = [
        f"/v1/{name}"
        for name in ("messages", "balance/transactions", "inbound-messages", "senders", "opt-outs",
                     "webhook-endpoints", "webhook-deliveries", "reports/summary")
    ]  # fmt: skip
    for path in reads:
        assert (await console.ask("GET", f"/console/api{path}", headers=own.headers())).status == 200, path
    admin = await console.log_in(ADMIN_KEY)
    for path in (*reads, "/v1/balance"):
        reply = await console.ask("GET", f"/console/api{path}", headers=admin.headers())
        assert (reply.status, reply.body["code"]) == (403, "scope_missing"), path


async def test_a_session_has_the_scopes_of_its_key(console: Console, acme: NewOrganisation) -> None:
    reader = await console.services.api_keys.create(acme.id, wish=ApiKeyWish(scopes=("read",)))
    sender = await console.services.api_keys.create(acme.id, wish=ApiKeyWish(scopes=("send",)))
    opt_out = ("POST", "/console/api/v1/opt-outs", {"numbers": ["+4915112345678"]})
    look = ("GET", "/console/api/v1/opt-outs", None)
    for key, allowed, refused in ((reader, look, opt_out), (sender, opt_out, look)):
        who = await console.log_in(key.api_key)
        for (method, path, body), is_allowed in ((allowed, True), (refused, False)):
            reply = await console.ask(method, path, body, who.headers())
            assert (reply.status < 300) == is_allowed, reply
            assert is_allowed or reply.body["code"] == "scope_missing"
    who = await console.log_in(sender.api_key)
    reply = await console.ask(*opt_out, who.headers(csrf=""))
    assert (reply.status, reply.body["code"]) == (403, "csrf_token_wrong")


async def test_no_message_is_submitted_by_a_session(console: Console, acme: NewOrganisation) -> None:
    who = await console.log_in(acme.api_key)
    for path in ("/v1/messages", "/v1/messages/batch"):
        reply = await console.ask("POST", f"/console/api{path}", {}, who.headers())
        assert reply.status in (404, 405), reply
