"""Prices that change at run time, transactions and the low-balance event, on the whole engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
import pytest

from tests.system.client import Caller, eventually
from tests.system.conftest import Engine, answer

DRAFT = {"to": "+447700112233", "text": "x" * 200}


@pytest.fixture
def made(engine: Engine) -> dict[str, Any]:
    made = answer(engine.run("org", "create", "Priced", "--json"))
    answer(engine.run("org", "topup", made["id"], 1000, "--reference", "first", "--json"))
    return dict(made)


@pytest.fixture
def base_prices(engine: Engine, tmp_path: Any) -> Iterator[None]:
    """Other tests of the session send at the base price."""
    yield
    file = tmp_path / "base.toml"
    file.write_text('[prices]\n"" = 1\n')
    answer(engine.run("price", "set", file, "--json"))
    caller = Caller(engine.url, engine.api_key)
    eventually(lambda: caller.call("POST", "/v1/messages", DRAFT)[1]["units"] == 2)


@pytest.mark.usefixtures("base_prices")
def test_a_price_set_while_the_engine_runs_is_applied_and_recorded(
    engine: Engine, made: dict[str, Any]
) -> None:
    caller = Caller(engine.url, made["api_key"])
    before = answer(engine.run("price", "list", "--json"))
    status, first = caller.call("POST", "/v1/messages", DRAFT)
    assert (status, first["segments"], first["units"]) == (202, 2, 2)
    changed = answer(engine.run("price", "set", "+44=3", "--json"))
    assert changed == {"version": before["version"] + 1, "prices": before["prices"] | {"+44": 3}}

    def dearer() -> Any:
        status, sent = caller.call("POST", "/v1/messages", DRAFT)
        assert status == 202
        return sent if sent["units"] == 6 else None

    second = eventually(dearer)
    _, shown = caller.call("GET", f"/v1/messages/{second['id']}")
    assert (shown["segments"], shown["price"], shown["units"]) == (2, 3, 6)
    # What was sent before keeps the price it was accepted at.
    _, shown = caller.call("GET", f"/v1/messages/{first['id']}")
    assert (shown["price"], shown["units"]) == (1, 2)


def test_transactions_add_up_to_the_balance(engine: Engine, made: dict[str, Any]) -> None:
    caller = Caller(engine.url, made["api_key"])
    assert caller.call("POST", "/v1/messages/batch", {"messages": [DRAFT] * 20})[0] == 202
    eventually(lambda: caller.call("GET", "/v1/balance")[1] == {"posted": 960, "held": 0, "available": 960})
    found: list[dict[str, Any]] = []
    query = "limit=1"
    while query:
        status, page = caller.call("GET", f"/v1/balance/transactions?{query}")
        assert status == 200
        found += page["transactions"]
        query = f"limit=1&cursor={page['next']}" if page["next"] else ""
    sums: dict[str, int] = {}
    for t in found:
        sums[t["type"]] = sums.get(t["type"], 0) + t["units"]
    assert sums == {"top-up": 1000, "hold": 40, "capture": 40}
    assert found[-1]["type"] == "top-up"
    assert found[-1]["reference"] == "first"


def test_a_low_balance_is_recorded_once_and_the_audit_stays_clean(
    engine: Engine, made: dict[str, Any]
) -> None:
    admin = Caller(engine.admin_url, engine.admin_key)
    path = f"/v1/admin/organisations/{made['id']}"
    assert admin.call("PATCH", path, {"low_balance": 980})[1]["low_balance"] == 980
    caller = Caller(engine.url, made["api_key"])
    for _ in range(30):
        assert caller.call("POST", "/v1/messages", DRAFT)[0] == 202
    urls = json.loads((engine.data_dir / "run" / "engine.json").read_text())["config"]
    place = urlsplit(urls["clickhouse"]["url"])
    client = clickhouse_connect.get_client(
        host=place.hostname, port=place.port, username=place.username, password=place.password,
        database=place.path.strip("/") or "default",
    )  # fmt: skip

    def recorded() -> Any:
        asked = "SELECT units, message_id FROM activity WHERE event = 'low_balance' AND organisation_id ="
        return client.query(f"{asked} {made['id']}").result_rows

    eventually(lambda: caller.call("GET", "/v1/balance")[1]["posted"] == 940)
    [(units, message_id)] = eventually(recorded)
    assert 940 <= units < 980
    assert message_id == ""
    client.close()
    found = answer(engine.run("audit", "--json"))
    assert found["clean"]
