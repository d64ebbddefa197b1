"""Two organisations see, change and infer nothing of each other. The tests are made from the OpenAPI
document: a new call is tried by itself, and one on a new kind of thing fails until `MAKERS` says how one is
made."""

from __future__ import annotations

import json
import random
import re
import time
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.openapi.documented import GIVEN, MAKERS, Documented, Operation, Organisation, Reply, ask, in_a_day
from tests.system.client import Caller, eventually

# Words that no other organisation has: they stand in everything that the first one does.
MARK = "zq7"
TEXT = f"Your code {MARK} is 123456"
NUMBER = "+4915199887766"
OPTED_OUT = "+4915199887755"
REFERENCE = f"{MARK}-order"
# How often a call on the thing of another is timed beside one on none.
PAIRS = 60
# What differs between any two answers.
_VARYING = re.compile(rb'"request_id":"[^"]*"')


class Both(NamedTuple):
    documented: Documented
    # One that has everything, and one that asks.
    first: Organisation
    other: Organisation


@pytest.fixture(scope="module")
def both(documented: Documented) -> Both:
    first, other = documented.organisation(), documented.organisation()
    message = GIVEN | {"to": NUMBER, "text": TEXT, "reference": REFERENCE}
    # At once and later, so that there is something to cancel.
    for more in ({}, {"send_at": in_a_day()}):
        sent = documented.public("POST", "/v1/messages", message | more, first.api_key)
        path = f"/v1/messages/{sent['id']}"
        eventually(lambda path=path: documented.public("GET", path, None, first.api_key)["events"])
    documented.public("POST", "/v1/opt-outs", {"numbers": [OPTED_OUT]}, first.api_key)
    endpoint = {"url": f"http://127.0.0.1:9/{MARK}"}
    documented.public("POST", "/v1/webhook-endpoints", endpoint, first.api_key)
    route = {"number": "77001", "organisation_id": first.id}
    documented.admin("PUT", "/inbound-routes", route)
    documented.admin("POST", "/inbound-messages", {"from": NUMBER, "to": "77001", "text": MARK})
    path = "/v1/inbound-messages"
    eventually(lambda: documented.public("GET", path, None, first.api_key)["inbound_messages"])
    return Both(documented, first, other)


def own_calls(documented: Documented) -> Iterator[Operation]:
    """The calls that take an API key."""
    for operation in documented.operations():
        if operation.scopes() and not operation.is_admin:
            yield operation


def without_variation(reply: Reply) -> tuple[int, bytes, list[tuple[str, str]]]:
    """All of an answer that could tell something."""
    # The length is that of the octets, and an id of a request may be longer than the one before.
    varying = ("X-Request-Id", "Date", "Content-Length")
    headers = [(k, v) for k, v in reply.headers.items() if k not in varying]
    return reply.status, _VARYING.sub(b"", reply.octets), headers


def test_every_call_on_a_thing_answers_for_another_organisations_as_for_none(both: Both) -> None:
    documented, wrong, tried = both.documented, [], 0
    for operation in own_calls(documented):
        kinds = operation.kinds()
        if not kinds:
            continue
        name = operation.of["operationId"]
        unknown_kinds = [kind for kind in kinds.values() if kind not in MAKERS]
        assert not unknown_kinds, (
            f"{name} is about a kind of thing that is new here, {unknown_kinds}: write in MAKERS of "
            "tests/openapi/documented.py how an organisation comes to have one, by its `Parameter.kind`."
        )
        for body in (operation.bodies() or {"": None}).values():
            tried += 1
            foreign = {n: MAKERS[kind](documented, both.first) for n, kind in kinds.items()}
            none = {n: like(foreign[n]) for n in kinds}
            theirs = documented.ask(operation, foreign, body, both.other.api_key)
            nobodys = documented.ask(operation, none, body, both.other.api_key)
            if theirs.status != 404 or without_variation(theirs) != without_variation(nobodys):
                wrong.append(f"{name}: {theirs.status} {theirs.octets!r}, of none {nobodys.octets!r}")
            own = documented.ask(operation, foreign, body, both.first.api_key)
            if own.status == 404:
                wrong.append(f"{name}: its owner gets 404, so the test would not see a difference")
    assert tried
    assert not wrong, "\n".join(wrong)


def test_no_call_takes_longer_for_another_organisations_thing_than_for_none(both: Both) -> None:
    """Each is asked beside the other, in an order by chance. That one of two equal ones is the faster in so
    many pairs more than the other happens once in a thousand million times."""
    documented, chance = both.documented, random.Random(1)
    caller = Caller(documented.engine.url, both.other.api_key)
    for operation in own_calls(documented):
        kinds = operation.kinds()
        if not kinds:
            continue
        body = next(iter(operation.bodies().values()), None)
        names = {n: MAKERS[kind](documented, both.first) for n, kind in kinds.items()}
        faster = 0
        for _ in range(PAIRS):
            paths = [operation.at(names), operation.at({n: like(name) for n, name in names.items()})]
            first = chance.randrange(2)
            took_s = {}
            for which in (first, 1 - first):
                began_s = time.perf_counter()
                assert caller.call(operation.method, paths[which], body)[0] == 404
                took_s[which] = time.perf_counter() - began_s
            faster += took_s[0] < took_s[1]
        assert abs(faster - PAIRS / 2) < 6 * PAIRS**0.5 / 2, (
            f"{operation.of['operationId']}: {faster} of {PAIRS}"
        )


def like(name: object) -> object:
    """A name of the same form that nobody's thing has."""
    if isinstance(name, int):
        return name + 10**12
    text = str(name)
    if re.fullmatch(r"[0-9a-f]{8}-.*", text):
        # The same time of acceptance, so that the same is looked up.
        return text[:-12] + uuid.uuid4().hex[:12]
    return text[:-1] + ("1" if text[-1] != "1" else "2")


def test_no_answer_has_a_word_of_another_organisation(both: Both) -> None:
    """Every call that reads, as it is, and with each of its parameters naming what the other one has."""
    documented, first = both.documented, both.first
    message_id = str(MAKERS["message"](documented, first))
    marks = {MARK.encode(), NUMBER.encode(), OPTED_OUT.encode(), message_id.encode()}
    wrong, seen = [], 0
    for operation in own_calls(documented):
        if operation.method != "GET" or operation.kinds():
            continue
        queries = [""]
        for one in operation.of.get("parameters", ()):
            if one.get("in") == "query":
                queries += [
                    f"?{one['name']}={value}"
                    for value in (NUMBER.replace("+", "%2B"), REFERENCE, message_id, first.id)
                ]
        for query in queries:
            reply = documented.ask(operation, {}, None, both.other.api_key, query)
            wrong += [
                f"{operation.of['operationId']}{query} has {mark!r}" for mark in marks if mark in reply.octets
            ]
            assert reply.status < 500, (operation.path, query, reply)
        own = documented.ask(operation, {}, None, first.api_key)
        seen += own.status == 200
    assert seen > 1
    assert not wrong, "\n".join(wrong)


def test_an_idempotency_key_of_another_organisation_is_nothing(both: Both) -> None:
    """The same key and body of two organisations are two requests: neither gets the other's answer."""
    documented, replayed = both.documented, []
    for operation in own_calls(documented):
        if operation.method != "POST" or operation.kinds():
            continue
        for body in operation.bodies().values():
            key = f"{MARK}-{uuid.uuid4()}"
            url = f"{documented.engine.url}{operation.path}"
            mine = ask("POST", url, body, both.first.api_key, **{"Idempotency-Key": key})
            again = ask("POST", url, body, both.first.api_key, **{"Idempotency-Key": key})
            theirs = ask("POST", url, body, both.other.api_key, **{"Idempotency-Key": key})
            assert "Idempotent-Replayed" not in theirs.headers, operation.path
            assert ids(theirs.body).isdisjoint(ids(mine.body)), operation.path
            replayed.append("Idempotent-Replayed" in again.headers)
    assert any(replayed), "no call was repeated, so the test would not see a difference"


def ids(body: Any) -> set[str]:
    """Every id in an answer."""
    return set(re.findall(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f-]{22}", json.dumps(body)))


def test_the_balance_of_another_organisation_does_not_move(both: Both) -> None:
    documented = both.documented

    def balance() -> dict[str, int]:
        return dict(documented.admin("GET", f"/organisations/{both.other.id}/balance"))

    # What it sent itself comes to its end first. The books are less than a second behind.
    time.sleep(1.5)
    before = eventually(lambda: (now := balance())["held"] == 0 and now)
    for operation in own_calls(documented):
        for body in operation.bodies().values():
            names = {n: MAKERS[kind](documented, both.first) for n, kind in operation.kinds().items()}
            documented.ask(operation, names, body, both.first.api_key)
    assert balance() == before


def test_every_call_asks_for_a_key_and_each_scope_is_needed(both: Both) -> None:
    documented = both.documented
    only = {
        scope: documented.admin("POST", f"/organisations/{both.first.id}/keys", {"scopes": [scope]})[
            "api_key"
        ]
        for scope in ("send", "read")
    }
    for operation in documented.operations():
        if not operation.of["security"]:
            continue
        names = dict.fromkeys(operation.kinds(), 1)
        body = next(iter(operation.bodies().values()), None)
        for key in ("none", both.first.api_key if operation.is_admin else "smsa_" + "x" * 43):
            assert documented.ask(operation, names, body, key).status == 401, operation.of["operationId"]
        for scope in operation.scopes():
            reply = documented.ask(operation, names, body, only["read" if scope == "send" else "send"])
            assert (reply.status, reply.body["code"]) == (403, "scope_missing"), operation.of["operationId"]
