"""The table of Redis keys in docs/architecture.md names every key that the engine leaves there."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from engine.stores.redis.link import RedisLink
from supervisor.datadir import DataDir
from supervisor.running import Running
from tests.system.carriers import Carriers, carriers, in_force, message_of
from tests.system.client import Caller, behave, eventually
from tests.system.conftest import ROOT, answer

_ROW = re.compile(r"^\| `([^`]+)` \| .+ \| (.+) \|$", re.MULTILINE)
# Names of the table that stand for one of several words, or for anything.
_WORDS = {"queue": "(express|normal)", "organisation": r"\d+"}


def table() -> dict[str, str]:
    """The keys as the page writes them, and when they are there."""
    page = (ROOT / "docs/architecture.md").read_text()
    rows = dict(_ROW.findall(page.partition("## Shards")[2].partition("## ")[0]))
    assert len(rows) > 20
    return rows


def pattern(row: str) -> re.Pattern[str]:
    text = re.escape(row).replace(r"\{s\}", r"\{\d+\}")
    return re.compile(re.sub("<([a-z]+)>", lambda name: _WORDS.get(name[1], "[^:{}]+"), text))


async def keys_of(pair: Carriers) -> set[str]:
    running = DataDir(pair.engine.data_dir).running(Running)
    assert running is not None
    link = RedisLink(running.config.redis.url, timeout_s=10, name="keys")
    found: set[str] = set()
    cursor = b"0"
    while True:
        cursor, page = await link.call("SCAN", cursor, "COUNT", 1000)
        found.update(key.decode() for key in page)
        if cursor == b"0":
            await link.close()
            return found


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Carriers]:
    with carriers(tmp_path_factory.mktemp("keys")) as pair:
        yield pair


def test_the_table_of_keys_is_what_a_run_leaves_behind(pair: Carriers) -> None:
    customer = Caller(pair.engine.url, pair.engine.api_key)
    admin = Caller(pair.engine.admin_url, pair.engine.admin_key)
    answer(pair.engine.run("provider", "throughput", "a", "100", "--json"))
    in_force(pair.engine)
    # The next message makes its balance low.
    organisation = f"/v1/admin/organisations/{pair.engine.organisation}"
    left = admin.call("GET", f"{organisation}/balance")[1]["available"]
    assert admin.call("PATCH", organisation, {"low_balance": left})[0] == 200
    assert admin.call("POST", "/v1/admin/queues/normal/resume", **{"Idempotency-Key": "resume"})[0] == 200
    log_in = {"key": pair.engine.admin_key}
    is_json = {"Content-Type": "application/json"}
    assert admin.call("POST", "/console/session", log_in, **is_json)[0] == 201
    pair.engine.run("inbound-route", "add", "12345", pair.engine.organisation)
    pair.engine.run("inbound", "write", "--from", "+989121234567", "--to", "12345", "--text", "hello")
    behave(pair.a.url, receipts={"delay": {"constant_ms": 50}})
    message = {"to": "+989121234567", "text": "hello"}
    sent = [
        customer.call("POST", "/v1/messages", message | {"queue": queue}, **{"Idempotency-Key": queue})[1][
            "id"
        ]
        for queue in ("express", "normal")
    ]
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert customer.call("POST", "/v1/messages", message | {"send_at": later})[0] == 202
    for message_id in sent:
        eventually(lambda i=message_id: message_of(pair.engine, i)["status"] == "delivered")

    rows = {row: (pattern(row), there) for row, there in table().items()}

    def of(key: str) -> list[str]:
        return [row for row, (wanted, _) in rows.items() if wanted.fullmatch(key)]

    def unseen() -> list[str]:
        """Keys must belong to one row each; the rows that have none, though they are not rare."""
        found = asyncio.run(keys_of(pair))
        assert {key: of(key) for key in found if len(of(key)) != 1} == {}
        seen = {of(key)[0] for key in found}
        return sorted(row for row, (_, there) in rows.items() if there != "rare" and row not in seen)

    # What the ledger and the routing plan write comes within a second or two.
    eventually(lambda: unseen() == [])
