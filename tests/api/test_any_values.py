"""Any value in any field of any POST, PUT and PATCH: no answer is a 500, none takes the others of a
batch with it, and each refusal names its field. The whole way in is real: ingest, credit, stores."""

from __future__ import annotations

import json
import random
import time
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.config import Queues
from engine.ids import MessageIds
from engine.intake.ingest import Ingest
from engine.intake.pricing import PriceTable
from engine.limits.gate import Gate
from engine.stores.postgres.directory import UNITS_MAX
from engine.stores.redis.link import RedisLink, load_functions
from tests.api.test_receipts import READERS, TOKEN
from tests.api.world import Api, services_with, serving
from tests.credit.test_credit import World, now_us, world
from tests.postgres_databases import database

# A dear destination, as dear as prices may be; all others cost one unit.
DEAR = "+98"
PRICE_MAX = 1_000_000
GOOD = {"to": "+4915112345678", "text": "Your code is 123456"}
# A thousand of the dearest messages, and more than that many times over.
CREDIT = UNITS_MAX

# Text as it goes over the wire: what a JSON writer would never write is among it.
NUMBERS = [
    "0", "-0", "-1", "1", "1.0", "1.5", "1e0", "1e5", "1e400", "-1e400", "1e-400", "NaN", "Infinity", "0x1",
    "01", "true", "604800", "604801", "2147483648", "9007199254740993", "9223372036854775807",
    "9223372036854775808", "-9223372036854775809", "18446744073709551616", "1000000000000000",
    "1000000000000001", "1" + "0" * 30, "1" + "0" * 400, "9" * 5000,
]  # fmt: skip
TIMES = [
    "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999Z",
    "0001-01-01T00:00:00Z", "2030-01-31T09:00:00", "2030-02-30T09:00:00Z", "2030-W01-1T00:00:00Z",
    "2030-01-31T24:00:00Z", "2030-01-31T23:59:60Z", "2030-01-31T09:00:00+24:00", "1969-12-31T23:59:59Z",
    "20300131T090000Z", "2030-01-31", "Z", "",
]  # fmt: skip
STRINGS = [
    "", " ", "\0", "x" * 201, "x" * 20_000, "\U0001f600" * 700, "+4915112345678", "+98" + "9" * 12, "+", "00",
    "\u0661\u0662\u0663", "express", "normal", "first", "\u202e", "\ufeff", "invoice-1", "%s{}`$", *TIMES,
]  # fmt: skip
HALVES = [r'"\ud83d"', r'"half \ude00"', r'"\ud83d\ud83d"', r'{"\udfff": 1}']
NESTED = ["null", "[]", "{}", "[[[]]]", '{"a": {"a": 1}}', "[" * 300 + "]" * 300, '{"": 1, "+98": 2}']
KNOWN = [*NUMBERS, *HALVES, *NESTED, *(msgspec.json.encode(s).decode() for s in STRINGS)]
VALUES = st.one_of(
    st.sampled_from(KNOWN),
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.text(max_size=40).map(lambda text: msgspec.json.encode(text).decode()),
)
MESSAGE_FIELDS = ("to", "text", "from", "queue", "validity", "send_at", "reference")
OTHERS = {
    ("POST", "/organisations"): ("name",),
    ("PATCH", "/organisations/1"): ("low_balance",),
    ("POST", "/organisations/1/keys"): ("name", "scopes", "expires_at"),
    ("POST", "/organisations/1/top-ups"): ("units", "reference"),
    ("PUT", "/prices"): ("prices", "version"),
    ("PUT", "/routes"): ("routes", "version"),
    ("PUT", "/providers/first"): ("throughput",),
    ("POST", "/providers/first/pause"): ("reason", "anything"),
    ("POST", "/providers/first/resume"): ("anything",),
}
ROUTE_FIELDS = ("prefix", "sender", "queue", "providers", "weights", "reroute")
RECEIPT_FIELDS = ("id", "ours", "state", "code", "to")


class Real(NamedTuple):
    api: Api
    # The organisation that pays, and what it may still spend is in its balance.
    organisation_id: int
    w: World


@pytest.fixture(scope="module")
async def real(postgres_url: str, redis_url: str) -> AsyncIterator[Real]:
    """The API on an ingest of its own, with a ledger, an organisation and credit."""
    async with database(postgres_url, "any_values") as books_url:
        streams_url = redis_url.rpartition("/")[0] + "/9"
        link = RedisLink(streams_url, timeout_s=5, name="any values")
        await link.call("FLUSHDB")
        await load_functions(link)
        await link.close()
        async with world(streams_url, books_url) as w:
            await w.ledger()
            _, quota = await w.holder("any")
            ingest = Ingest(
                quota, PriceTable({"": 1, DEAR: PRICE_MAX}), Queues().validities_s(),
                MessageIds(random.getrandbits(26), random.getrandbits(48)), now_us=now_us, timeout_s=8.0,
                gate=Gate(clock_s=time.monotonic),
            )  # fmt: skip
            made = await w.directory.create_organisation("any")
            await w.directory.top_up(made.id, CREDIT, "first")
            services = await services_with(w.directory, ingest=ingest, receipt_readers=READERS)
            async with serving(services, made.api_key) as api:
                # `services.ingest` of the other tests is a stand-in; here nothing looks at it.
                yield Real(api, made.id, w)


def written(fields: dict[str, str]) -> bytes:
    """A JSON object of values that are JSON already, or nearly."""
    return b"{%s}" % b", ".join(
        msgspec.json.encode(name) + b": " + value.encode() for name, value in fields.items()
    )


def good() -> dict[str, str]:
    return {name: msgspec.json.encode(value).decode() for name, value in GOOD.items()}


def is_json(value: str) -> bool:
    """Whether a value can stand in a body at all; half a character can."""
    try:
        json.loads(value, parse_int=str, parse_constant=int)
    except ValueError:
        return False
    return True


def names_the_field(status: int, reply: Any, field: str) -> bool:
    """Of a refusal; a body that is no JSON has no fields."""
    if status == 400:
        return str(reply["code"]) == "invalid_json"
    at = reply.get("field") or ""
    return status == 422 and (at == field or at.startswith((f"{field}.", f"{field}[")))


def lasting(examples: int) -> settings:
    return settings(
        max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )


@lasting(100)
@given(field=st.sampled_from(MESSAGE_FIELDS), value=VALUES)
async def test_any_value_of_a_message_is_accepted_or_refused_by_its_field(
    real: Real, field: str, value: str
) -> None:
    status, _, reply = await real.api.ask("POST", "/v1/messages", written(good() | {field: value}))
    assert status == 202 or names_the_field(status, reply, field), (status, reply)
    assert status != 400 or not is_json(value)


@lasting(100)
@given(bad=st.lists(st.tuples(st.sampled_from(MESSAGE_FIELDS), VALUES.filter(is_json)), max_size=6))
async def test_no_value_takes_the_other_messages_of_a_batch_with_it(
    real: Real, bad: list[tuple[str, str]]
) -> None:
    messages = [written(good())]
    for field, value in bad:
        messages += [written(good() | {field: value}), written(good())]
    body = b'{"messages": [%s]}' % b", ".join(messages)
    status, _, reply = await real.api.ask("POST", "/v1/messages/batch", body)
    assert status == 202, reply
    results = reply["results"]
    assert all("id" in result for result in results[::2])
    for place, (field, _) in enumerate(bad):
        at = 2 * place + 1
        problem = results[at].get("error")
        assert problem is None or names_the_field(problem["status"], problem, f"messages[{at}].{field}")


@pytest.mark.parametrize("field", MESSAGE_FIELDS)
async def test_every_known_value_of_a_field_refuses_at_most_its_own_message(real: Real, field: str) -> None:
    for value in KNOWN:
        body = written(good() | {field: value})
        status, _, reply = await real.api.ask("POST", "/v1/messages", body)
        assert status == 202 or names_the_field(status, reply, field), (value, reply)
    values = [value for value in KNOWN if is_json(value)]
    messages = [m for value in values for m in (written(good() | {field: value}), written(good()))]
    body = b'{"messages": [%s]}' % b", ".join(messages)
    status, _, reply = await real.api.ask("POST", "/v1/messages/batch", body)
    assert status == 202, reply
    assert all("id" in result for result in reply["results"][1::2])
    for place, result in enumerate(reply["results"]):
        problem = result.get("error")
        assert problem is None or names_the_field(422, problem, f"messages[{place}].{field}"), problem


@pytest.mark.parametrize("text", TIMES)
async def test_a_time_at_the_end_of_the_calendar_refuses_only_its_message(real: Real, text: str) -> None:
    body = {"messages": [GOOD, GOOD | {"send_at": text}, GOOD]}
    status, _, reply = await real.api.ask("POST", "/v1/messages/batch", body)
    assert status == 202, reply
    first, refused, last = reply["results"]
    assert "id" in first
    assert "id" in last
    assert (refused["error"]["status"], refused["error"]["field"]) == (422, "messages[1].send_at")
    assert refused["error"]["detail"].startswith("`send_at` must be ")


@pytest.mark.parametrize("field", ["text", "reference", "from", "to"])
async def test_half_a_character_refuses_only_its_message(real: Real, field: str) -> None:
    bad = written(good() | {field: r'"half \ud83d"'})
    body = b'{"messages": [%s, %s, %s]}' % (written(good()), bad, written(good()))
    status, _, reply = await real.api.ask("POST", "/v1/messages/batch", body)
    assert status == 202, reply
    assert ["error" in result for result in reply["results"]] == [False, True, False]
    problem = reply["results"][1]["error"]
    assert (problem["code"], problem["field"]) == ("invalid_text", f"messages[1].{field}")
    status, _, reply = await real.api.ask("POST", "/v1/messages", bad)
    assert (status, reply["code"], reply["field"]) == (422, "invalid_text", field)


@pytest.mark.parametrize("field", ["text", "reference"])
async def test_a_field_with_the_character_nul_is_refused(real: Real, field: str) -> None:
    body = {"messages": [GOOD, GOOD | {field: "a\0b"}, GOOD]}
    status, _, reply = await real.api.ask("POST", "/v1/messages/batch", body)
    assert status == 202, reply
    problem = reply["results"][1]["error"]
    assert (problem["code"], problem["field"]) == ("invalid_text", f"messages[1].{field}")
    assert "U+0000" in problem["detail"]


async def test_a_number_is_read_as_people_write_it(real: Real) -> None:
    written_ways = [
        "\u202a+49 151 12345678\u202c",
        "'+4915112345678",
        "\u0660\u0660\u0664\u06699 15112345678",
    ]
    body = {"messages": [GOOD | {"to": to} for to in written_ways]}
    status, _, reply = await real.api.ask("POST", "/v1/messages/batch", body)
    assert status == 202
    assert all("id" in result for result in reply["results"]), reply


async def test_null_is_absent_for_every_optional_field(real: Real) -> None:
    nulls = dict.fromkeys(MESSAGE_FIELDS[2:])
    for field, value in nulls.items():
        assert (await real.api.ask("POST", "/v1/messages", GOOD | {field: value}))[0] == 202, field
    assert (await real.api.ask("POST", "/v1/messages", GOOD | nulls))[0] == 202
    status, _, reply = await real.api.ask("POST", "/v1/messages/batch", {"messages": [GOOD | nulls]})
    assert "id" in reply["results"][0]
    route = dict.fromkeys(ROUTE_FIELDS) | {"providers": ["first"]}
    status, table = await real.api.admin("PUT", "/routes", {"routes": [route], "version": None})
    assert status == 200, table
    assert table["routes"][0]["prefix"] == ""
    status, table = await real.api.admin("GET", "/prices")
    again = {"prices": table["prices"] or {"": 1}, "version": None}
    assert (await real.api.admin("PUT", "/prices", again))[0] == 200
    for path in ("/organisations/1/keys", "/providers/first/resume"):
        for body in (b"", b"{}", b"null", b" null\n"):
            assert (await real.api.admin("POST", path, body))[0] in (200, 201), (path, body)
    for page in ("limit=", "limit=&cursor=", "cursor="):
        assert (await real.api.ask("GET", f"/v1/balance/transactions?{page}"))[0] == 200, page


@pytest.mark.parametrize("path", ["/queues/normal/resume", "/providers/first/resume"])
async def test_a_body_that_has_no_fields_is_told_so(real: Real, path: str) -> None:
    for body, says in (({"x": 1}, "it has none."), ([], ": an empty JSON object.")):
        status, reply = await real.api.admin("POST", path, body)
        assert status == 422
        assert reply["detail"].endswith(says)


async def test_the_dearest_batch_there_can_be_is_held_to_the_unit(real: Real) -> None:
    """600 messages of 10 segments at 1,000,000 units each, which is more than 32 bits hold, in one step."""
    before = await real.w.directory.balance(real.organisation_id)
    dear = {"to": "+989121234567", "text": "x" * 1530}
    status, _, reply = await real.api.ask("POST", "/v1/messages/batch", {"messages": [dear] * 600})
    assert status == 202, reply
    assert sum(result["units"] for result in reply["results"]) == 600 * 10 * PRICE_MAX

    while (await real.w.directory.balance(real.organisation_id)).held - before.held < 600 * 10 * PRICE_MAX:
        pass
    await real.w.clean()


@lasting(300)
@given(call=st.sampled_from(list(OTHERS)), data=st.data())
async def test_any_value_of_the_operators_calls_is_taken_or_refused_by_its_field(
    real: Real, call: tuple[str, str], data: st.DataObject
) -> None:
    method, path = call
    field, value = data.draw(st.sampled_from(OTHERS[call])), data.draw(VALUES)
    fields = {
        "/organisations/1/top-ups": {"units": "1", "reference": '"fuzz"'},
        "/prices": {"prices": '{"": 1}'},
        "/routes": {"routes": "[]"},
    }.get(path, {})
    status, reply = await real.api.admin(method, path, written(fields | {field: value}))
    assert status in (200, 201, 400, 409, 422), (status, reply)
    if status == 409:
        assert reply["field"] in ("version", "reference")
    elif status >= 400:
        assert names_the_field(status, reply, field), reply
        assert status != 400 or not is_json(value)


@lasting(150)
@given(field=st.sampled_from(ROUTE_FIELDS), value=VALUES.filter(is_json), place=st.integers(0, 2))
async def test_any_value_of_a_route_is_taken_or_refused_by_its_field(
    real: Real, field: str, value: str, place: int
) -> None:
    routes = [{"prefix": f'"+{n}"', "providers": '["first"]'} for n in (1, 2, 3)]
    routes[place] = routes[place] | {field: value}
    body = b'{"routes": [%s]}' % b", ".join(map(written, routes))
    status, reply = await real.api.admin("PUT", "/routes", body)
    at = f"routes.{place}" if field != "prefix" else "routes"
    # Half a character is found before the routes are told apart.
    at = "routes" if reply.get("code") == "invalid_text" else at
    assert status == 200 or names_the_field(status, reply, at), (status, reply)


@lasting(150)
@given(prefix=st.one_of(st.sampled_from(STRINGS), st.text(max_size=20)), value=VALUES.filter(is_json))
async def test_any_price_is_taken_or_refused_by_its_prefix(real: Real, prefix: str, value: str) -> None:
    body = b'{"prices": %s}' % written({"": "1"} | {prefix: value})
    status, reply = await real.api.admin("PUT", "/prices", body)
    assert status == 200 or names_the_field(status, reply, "prices"), (status, reply)


@lasting(150)
@given(field=st.sampled_from(RECEIPT_FIELDS), value=VALUES)
async def test_any_value_of_a_receipt_is_kept_or_refused(real: Real, field: str, value: str) -> None:
    fields = {"id": '"A1"', "ours": '""', "state": '"ok"', "code": '"0"', "to": '"98"'} | {field: value}
    path = f"/v1/providers/acme/receipts/{TOKEN}"
    url = f"http://127.0.0.1:{real.api.port}{path}"
    headers = {"Content-Type": "application/json"}
    async with real.api.session.post(url, data=written(fields), headers=headers) as answer:
        assert answer.status in (202, 400, 422), await answer.read()


async def test_a_whole_number_may_be_written_with_a_point(real: Real) -> None:
    """JSON does not tell 12.0 from 12, and some clients write the one for the other."""
    status, _, _ = await real.api.ask(
        "POST", "/v1/messages", b'{"to":"+4915112345678","text":"x","validity":60.0}'
    )
    assert status == 202
    status, _ = await real.api.admin(
        "PATCH", f"/organisations/{real.organisation_id}", b'{"low_balance": 5.0}'
    )
    assert status == 200
    status, reply = await real.api.admin("PUT", "/prices", b'{"prices": {"": 1.0, "+98": 2e0}}')
    assert (status, reply["prices"]) == (200, {"": 1, "+98": 2})
    status, reply = await real.api.admin(
        "PATCH", f"/organisations/{real.organisation_id}", b'{"low_balance": 5.5}'
    )
    assert (status, reply["field"]) == (422, "low_balance")


PAGES = [
    "/v1/balance/transactions?limit={}",
    "/v1/balance/transactions?cursor={}",
    "/v1/admin/organisations?limit={}",
    "/v1/admin/organisations?after={}",
    "/v1/admin/organisations/1/transactions?cursor={}",
]


@pytest.mark.parametrize("value", ["", "-1", "0", "1001", "9" * 18, "9" * 19, "1e3", "0x1", "\u0661", "1.0"])
@pytest.mark.parametrize("page", PAGES)
async def test_any_page_asked_for_is_shown_or_refused_by_its_field(real: Real, page: str, value: str) -> None:
    key = None if "balance" in page else "admin"
    path = page.format(value)
    if key is None:
        status, _, reply = await real.api.ask("GET", path)
    else:
        status, reply = await real.api.admin("GET", path.removeprefix("/v1/admin"))
    field = page.partition("?")[2].partition("=")[0]
    assert status == 200 or (status, reply["field"]) == (422, field)


@pytest.mark.parametrize("number", ["0", "9" * 18, "9" * 19, "-1", "1e3", "x"])
async def test_ids_in_paths_beyond_any_that_was_given_are_not_found(real: Real, number: str) -> None:
    for method, path in (
        ("PATCH", "/organisations/{}"), ("POST", "/organisations/{}/keys"), ("GET", "/organisations/{}/keys"),
        ("DELETE", "/organisations/1/keys/{}"), ("GET", "/organisations/{}/balance"),
        ("POST", "/organisations/{}/top-ups"),
    ):  # fmt: skip
        body = {"units": 1, "reference": "r"} if "top-ups" in path else {"low_balance": 1}
        status, reply = await real.api.admin(
            method, path.format(number), body if method in ("PATCH",) or "top-ups" in path else None
        )
        assert (status, reply["code"]) == (404, "not_found")


async def test_top_ups_end_at_what_the_books_can_hold(real: Real) -> None:
    """Their sum stays below 2^63, and one that would not fit changes nothing."""
    _, made = await real.api.admin("POST", "/organisations", {"name": "rich"})
    path = f"/organisations/{made['id']}/top-ups"
    async with real.w.directory._pool.transaction() as connection:
        units = 2**63 - 1 - UNITS_MAX
        await connection.execute(
            "UPDATE accounts SET topped_up = $1, available = $1 WHERE organisation_id = $2", units, made["id"]
        )
    status, reply = await real.api.admin("POST", path, {"units": UNITS_MAX, "reference": "the last"})
    assert (status, reply["balance"]["available"]) == (201, 2**63 - 1)
    status, reply = await real.api.admin("POST", path, {"units": 1, "reference": "one too many"})
    assert (status, reply["field"]) == (422, "units")
    _, _, balance = await real.api.ask("GET", "/v1/balance", key=made["api_key"])
    assert balance == {"posted": 2**63 - 1, "held": 0, "available": 2**63 - 1}
