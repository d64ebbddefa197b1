"""The calls on webhooks: secrets are shown once, private addresses are refused, and keys need their
scopes."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engine.api.webhook_ports import WebhookServices
from engine.organisations import NewOrganisation
from engine.stores.postgres.directory import Directory
from engine.webhooks.records import MadeDelivery, WebhookEvent
from tests.api.world import Api, services_with, serving

_numbers = itertools.count(1)
ENDPOINTS, DELIVERIES = "/v1/webhook-endpoints", "/v1/webhook-deliveries"


def url() -> str:
    return f"https://example.com/hook/{next(_numbers)}"


async def made(api: Api, of: str | None = None) -> dict[str, Any]:
    status, _, endpoint = await api.ask("POST", ENDPOINTS, {"url": of or url()})
    assert status == 201
    return dict(endpoint)


async def test_a_secret_is_shown_when_it_is_made_and_never_again(api: Api) -> None:
    endpoint = await made(api)
    assert endpoint["secret"].startswith("whsec_")
    status, _, listed = await api.ask("GET", ENDPOINTS)
    assert status == 200
    shown = next(e for e in listed["webhook_endpoints"] if e["id"] == endpoint["id"])
    assert shown == {
        "id": endpoint["id"], "url": endpoint["url"], "created_at": endpoint["created_at"],
        "previous_secret_until": None, "events": None,
    }  # fmt: skip
    status, _, rotated = await api.ask("POST", f"{ENDPOINTS}/{endpoint['id']}/rotate")
    assert status == 200
    assert rotated["secret"] != endpoint["secret"]
    assert rotated["previous_secret_until"]
    status, _, callbacks = await api.ask("POST", f"{ENDPOINTS}/callbacks/rotate", {"overlap_s": 0})
    assert (status, callbacks["url"]) == (200, None)
    until = datetime.fromisoformat(callbacks["previous_secret_until"])
    assert timedelta() < until - datetime.now(UTC) <= timedelta(seconds=3)
    assert (await api.ask("DELETE", f"{ENDPOINTS}/{endpoint['id']}"))[0] == 204
    assert (await api.ask("DELETE", f"{ENDPOINTS}/{endpoint['id']}"))[0] == 404


async def test_an_endpoint_names_the_types_of_its_events(api: Api) -> None:
    types = ["message.sent", "balance.low", "message.sent"]
    _, _, some = await api.ask("POST", ENDPOINTS, {"url": url(), "events": types})
    assert some["events"] == ["balance.low", "message.sent"]
    of_it = f"{ENDPOINTS}/{some['id']}"
    for events in (["message.received"], None):
        status, _, changed = await api.ask("PATCH", of_it, {"events": events})
        assert (status, changed["events"]) == (200, events)
        assert "secret" not in changed
    for wrong in ([], ["message.unknown"], ["webhook.test"], "message.sent", [5], {}):
        for method, path, body in (("POST", ENDPOINTS, {"url": url()}), ("PATCH", of_it, {})):
            status, _, problem = await api.ask(method, path, body | {"events": wrong})
            assert (status, problem["field"][:6]) == (422, "events")
    assert (await api.ask("PATCH", of_it, {}))[2]["field"] == "events"
    assert (await api.ask("PATCH", f"{ENDPOINTS}/callbacks", {"events": None}))[0] == 404


async def test_the_same_url_twice_is_one_endpoint(api: Api) -> None:
    endpoint = await made(api)
    status, _, problem = await api.ask("POST", ENDPOINTS, {"url": endpoint["url"]})
    assert (status, problem["code"]) == (409, "endpoint_exists")


async def test_the_secret_of_callback_urls_is_none_of_the_twenty_endpoints(directory: Directory) -> None:
    own = await directory.create_organisation("twenty")
    async with serving(await services_with(directory), own.api_key) as api:
        assert (await api.ask("POST", f"{ENDPOINTS}/callbacks/rotate", {"overlap_s": 0}))[0] == 200
        for _ in range(20):
            await made(api)
        status, _, problem = await api.ask("POST", ENDPOINTS, {"url": url()})
    assert (status, problem["code"]) == (409, "too_many_endpoints")


@pytest.mark.parametrize(
    "wrong",
    ["", "ftp://example.com", "https://", "https://u:p@example.com", "https://example.com/#a", "https://a b",
     "http://127.0.0.1/", "http://10.0.0.1", "http://[::1]/", "http://169.254.169.254/latest", "http://localhost:8080",
     "http://[::ffff:10.0.0.1]/", "http://[64:ff9b::a00:1]/", "https://example.com:0/", "https://exämple.com/"],
)  # fmt: skip
async def test_a_url_that_webhooks_do_not_go_to_is_refused(api: Api, wrong: str) -> None:
    status, _, problem = await api.ask("POST", ENDPOINTS, {"url": wrong})
    assert (status, problem["code"], problem["field"]) == (422, "invalid_field", "url")


async def test_to_change_webhooks_takes_a_key_that_reads_and_sends(api: Api, acme: NewOrganisation) -> None:
    for scopes, looks, changes in ((["read"], 200, 403), (["send"], 403, 403)):
        _, key = await api.admin("POST", f"/organisations/{acme.id}/keys", {"scopes": scopes})
        assert (await api.ask("GET", ENDPOINTS, key=key["api_key"]))[0] == looks
        assert (await api.ask("GET", DELIVERIES, key=key["api_key"]))[0] == looks
        assert (await api.ask("POST", ENDPOINTS, {"url": url()}, key=key["api_key"]))[0] == changes
        assert (await api.ask("POST", f"{DELIVERIES}/1/replay", key=key["api_key"]))[0] == changes


async def test_deliveries_are_listed_and_replayed(api: Api) -> None:
    assert (await api.ask("GET", f"{DELIVERIES}?state=failed"))[2] == {"webhook_deliveries": [], "next": None}
    assert (await api.ask("GET", f"{DELIVERIES}?state=lost"))[0] == 422
    assert (await api.ask("POST", f"{DELIVERIES}/7/replay"))[0] == 404
    # The last is a time of the year 10000 in UTC, which PostgreSQL is not asked about.
    for wrong in ("2026-01-01", "2026-01-01T00:00:00", 1796000000, "9999-12-31T23:59:59-01:00"):
        status, _, refused = await api.ask("POST", f"{DELIVERIES}/replay", {"since": wrong})
        assert (status, refused["field"]) == (422, "since"), wrong
    status, _, answer = await api.ask("POST", f"{DELIVERIES}/replay", {"since": "2026-01-01T00:00:00Z"})
    assert (status, answer) == (200, {"replayed": 0})


class Queue:
    """Remembers the events that were queued."""

    def __init__(self) -> None:
        self.events: list[WebhookEvent] = []

    async def put(self, shard: int, events: Any) -> None:
        self.events += events

    async def made(self, shard: int, endpoint_id: int) -> list[MadeDelivery]:
        return [
            MadeDelivery(
                event_id="evt_1", type="message.sent", url="https://a.example/", event_at_us=10**15,
                at_us=10**15 + 10**6, status=204, duration_ms=2.5, attempts=endpoint_id,
            )
        ]  # fmt: skip


async def test_a_test_event_goes_to_the_endpoint_that_is_named(
    directory: Directory, acme: NewOrganisation
) -> None:
    queue = Queue()
    services = await services_with(directory)
    book = services.webhooks.book
    changed = await services_with(directory, webhooks=WebhookServices(book, queue, 16))
    async with serving(changed, acme.api_key) as api:
        endpoint = await made(api)
        status, _, answer = await api.ask("POST", f"{ENDPOINTS}/{endpoint['id']}/test")
        assert status == 202
        assert (await api.ask("POST", f"{ENDPOINTS}/999999/test"))[0] == 404
        # What an endpoint took is listed, and nobody else's.
        status, _, listed = await api.ask("GET", f"{ENDPOINTS}/{endpoint['id']}/deliveries")
        assert (status, listed) == (200, {"webhook_deliveries": [
            {"event_id": "evt_1", "type": "message.sent", "url": "https://a.example/",
             "event_at": "2001-09-09T01:46:40Z", "delivered_at": "2001-09-09T01:46:41Z", "status": 204,
             "duration_ms": 2.5, "attempts": endpoint["id"]}]})  # fmt: skip
        await api.ask("POST", f"{ENDPOINTS}/callbacks/rotate", {})
        status, _, listed = await api.ask("GET", f"{ENDPOINTS}/callbacks/deliveries")
        assert (status, listed["webhook_deliveries"][0]["attempts"] != endpoint["id"]) == (200, True)
        for nobody in ("999999", "x", "0"):
            assert (await api.ask("GET", f"{ENDPOINTS}/{nobody}/deliveries"))[0] == 404
    [event] = queue.events
    assert (event.id, event.type, event.endpoint_id) == (answer["event_id"], "webhook.test", endpoint["id"])
