"""The calls on senders and destinations."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.world import Api

NOTHING = {"senders": None, "default": "", "destinations": None}


async def test_senders_are_shown_set_and_taken_back_and_the_organisation_sees_them(api: Api) -> None:
    made = (await api.admin("POST", "/organisations", {"name": "sending"}))[1]
    path = f"/organisations/{made['id']}/senders"
    assert await api.admin("GET", path) == (200, NOTHING)
    wanted = {"senders": ["ACME", "+14155550123"], "default": "ACME"}
    assert await api.admin("PATCH", path, wanted) == (200, NOTHING | wanted)
    assert await api.admin("PATCH", path, {"destinations": ["+49"]}) == (
        200,
        NOTHING | wanted | {"destinations": ["+49"]},
    )
    shown = await api.ask("GET", "/v1/senders", key=made["api_key"])
    assert shown[2] == NOTHING | wanted | {"destinations": ["+49"]}
    back = {"senders": None, "default": None, "destinations": None}
    assert await api.admin("PATCH", path, back) == (200, NOTHING)


async def test_rules_of_destinations_are_replaced_by_version(api: Api) -> None:
    before = (await api.admin("GET", "/destinations"))[1]
    rules = {"+1": ["short", "long"], "+882": []}
    status, sheet = await api.admin("PUT", "/destinations", {"rules": rules, "version": before["version"]})
    assert (status, sheet["rules"]) == (200, rules)
    stale = {"rules": {}, "version": before["version"]}
    assert (await api.admin("PUT", "/destinations", stale))[1]["code"] == "version_conflict"
    assert await api.admin("PUT", "/destinations", {"rules": rules, "version": 1}) == (200, sheet)
    assert (await api.admin("PUT", "/destinations", {"rules": {}}))[1]["rules"] == {}


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("senders", {"senders": "ACME"}, "senders"),
        ("senders", {"senders": ["ACME", "much too long a name"]}, "senders[1]"),
        ("senders", {"senders": [""]}, "senders[0]"),
        ("senders", {"senders": ["ACME"], "default": "OTHER"}, "default"),
        ("senders", {"default": "1"}, "default"),
        ("senders", {"destinations": ["49"]}, 'destinations["49"]'),
        ("senders", {"destinations": ["+1"] * 1001}, "destinations"),
        ("senders", {"sender": "ACME"}, "sender"),
        ("destinations", {"rules": {"1": []}}, 'rules["1"]'),
        ("destinations", {"rules": {"+1": ["alpha"]}}, "rules"),
        ("destinations", {}, "rules"),
    ],
)
async def test_what_is_no_rule_is_refused_with_the_field(api: Api, path: str, body: Any, field: str) -> None:
    made = (await api.admin("POST", "/organisations", {"name": "sending"}))[1]
    method, where = ("PUT", "/destinations")
    if path == "senders":
        method, where = ("PATCH", f"/organisations/{made['id']}/senders")
    status, reply = await api.admin(method, where, body)
    assert (status, reply["field"]) == (422, field), reply
