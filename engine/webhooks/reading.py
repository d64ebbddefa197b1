"""Rule: which deliveries the entries of a shard become."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from engine.hosts.webhook_urls import target_of
from engine.records import NO_RECORD
from engine.stream_id import StreamId
from engine.webhooks._search import has_four
from engine.webhooks.events import TYPES, body_of, callback_of, event_of
from engine.webhooks.ports import FoundEntry
from engine.webhooks.records import Delivery, Endpoint, WebhookEvent

_EVENTS = msgspec.msgpack.Decoder(list[WebhookEvent])
_ROWS = msgspec.msgpack.Decoder(list[list[Any]])
# Of a batch of rows without these octets, none has a callback URL. Most have none, and need not be decoded.
_URL_BEGINS = b"http"


def may_concern(blob: bytes, *, endpoints: bool) -> bool:
    """Whether a batch of rows may have one that anybody is told of. `endpoints`: an organisation of its
    shard has some."""
    return endpoints or has_four(blob, _URL_BEGINS)


def rows_of(entry: FoundEntry) -> int:
    """How many rows an entry of activity has by its array header; 1 for another."""
    blob = entry.blob
    return int.from_bytes(blob[1:5], "big") or 1 if entry.activity and blob[:1] == b"\xdd" else 1


def rows_in(blob: bytes) -> list[list[Any]]:
    """The rows of an entry of activity; [] when it cannot be read: the archiver sets it aside."""
    try:
        return _ROWS.decode(blob)
    except NO_RECORD:
        return []


def events_in(blob: bytes) -> list[WebhookEvent]:
    """The events of an entry of the stream of events; [] when it cannot be read."""
    try:
        return _EVENTS.decode(blob)
    except NO_RECORD:
        return []


def events_of_rows(
    rows: Iterable[tuple[StreamId, Sequence[Any]]], organisations: Iterable[int]
) -> list[WebhookEvent]:
    """The events of those rows that these organisations or a callback URL are told of."""
    known = set(organisations)
    found = []
    for place, row in rows:
        try:
            if row[4] not in TYPES or not (row[1] in known or callback_of(row)):
                continue
            event = event_of(row, place)
        except (IndexError, TypeError, ValueError):
            continue
        if event is not None:
            found.append(event)
    return found


def deliveries_of(
    event: WebhookEvent, shard: int, endpoints: Sequence[Endpoint], callback: Endpoint | None
) -> list[Delivery]:
    """One delivery to each endpoint, and one to the callback URL with the secrets of `callback`."""
    wanted = [(endpoint.url, endpoint) for endpoint in endpoints if endpoint.gets(event)]
    # An endpoint that is the callback URL, too, is told once.
    if callback is not None and event.callback_url not in {url for url, _ in wanted}:
        wanted.append((event.callback_url, callback))
    body = body_of(event) if wanted else b""
    found = []
    for url, endpoint in wanted:
        target = target_of(url)
        if target is not None:
            found.append(
                Delivery(
                    event_id=event.id,
                    type=event.type,
                    organisation_id=event.organisation_id,
                    shard=shard,
                    endpoint_id=endpoint.id,
                    target=target,
                    body=body,
                    at_us=event.at_us,
                )
            )
    return found
