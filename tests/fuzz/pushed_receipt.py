"""Receipts that carriers push over HTTP, by every preset: what is not read is refused, nothing is left out.

The first octet chooses the preset, the second the method and the content type. Then comes the query, a line
feed, and the body.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from functools import partial

from engine.api.problems import problem_of
from engine.api.response import answer_of
from engine.providers import presets, receipt_readers
from engine.providers.settings import HttpSettings
from tests.fuzz.target import Check, Target
from tests.providers.carrier import TOKEN, message

NAMES = presets.names()
READERS = receipt_readers(HttpSettings(name=name, preset=name, receipt_token=TOKEN) for name in NAMES)
KINDS = ("application/x-www-form-urlencoded", "application/json; charset=utf-8", "text/xml", "")
METHODS = ("POST", "GET")
_OURS = message().id.encode()
# (preset, query, content type's place, body)
_KNOWN = [
    ("generic", b"", 1, b'[{"id": "m-1", "state": "delivered", "to": "98"}, {"id": 2, "state": "expired"}]'),
    ("generic", b"", 1, b'{"message_id": "%b", "state": "UNDELIV", "code": 7}' % _OURS),
    ("generic", b"", 1, b"[]"),
    ("kannel", b"id=%b&state=1&to=%%2B98912&reply=ACK%%2F" % _OURS, 3, b""),
    ("kavenegar", b"", 0, b"messageid=85463238&status=10"),
    ("kavenegar", b"messageid=1&status=11", 3, b""),
    ("simulated", b"", 1, b'[{"id": "S1", "status": "delivered"}]'),
    ("twilio", b"id=%b" % _OURS, 0, b"MessageSid=SM1&MessageStatus=undelivered&ErrorCode=30003&To=%2B1"),
    ("vonage", b"", 0, b"messageId=0A&status=delivered&err-code=0&msisdn=98&client-ref=%b" % _OURS),
    ("vonage", b"messageId=0A&status=failed", 3, b""),
    ("vonage", b"", 1, b'{"messageId": 7, "status": "accepted", "client-ref": null}'),
    ("vonage", b"", 2, b"<receipt><id>1</id><status>delivered</status></receipt>"),
]  # fmt: skip
WORDS = (
    b'"id"', b'"state"', b'"status"', b'"message_id"', b'"delivered"', b'"code"', b'"to"', b"id=", b"state=",
    b"status=", b"messageid=", b"messageId=", b"MessageSid=", b"MessageStatus=", b"client-ref=", b"%ff",
    b"%00",
    b"\\ud83d", b"1e999", b"null", b"[[", b"{}", b"&&", b";", b"\xef\xbb\xbf", _OURS,
)  # fmt: skip


def seeds() -> list[bytes]:
    return [
        bytes([NAMES.index(name), kind << 1 | (not body)]) + query + b"\n" + body
        for name, query, kind, body in _KNOWN
    ]


def request(data: bytes) -> tuple[str, str, str, str, bytes]:
    """(name of the provider, method, query, content type, body) that an input stands for."""
    query, _, body = data[2:].partition(b"\n")
    name, kind = NAMES[data[0] % len(NAMES)], KINDS[data[1] >> 1 & 3]
    # As the API passes it on.
    return name, METHODS[data[1] & 1], query.decode(errors="replace"), kind, body


@contextlib.contextmanager
def opened() -> Iterator[Check]:
    yield partial(check)


def check(data: bytes) -> None:
    if len(data) < 2:
        return
    name, method, query, kind, body = request(data)
    receipts, refusal = READERS[name].read(method, query, kind, body, 77)
    for one in receipts:
        assert one.provider == name
        assert one.provider_message_id or one.message_id, "a receipt without an id"
        assert one.code
    if refusal is not None:
        assert refusal.status in (400, 413, 422), f"refused with {refusal.status}"
        assert refusal.detail
        # It may quote anything that JSON can carry.
        answer_of(refusal.status, problem_of(refusal, request_id="r"))
    elif len(receipts) != 1:
        with contextlib.suppress(ValueError):  # what is read although it is not quite JSON
            document = json.loads(body)
            # A text with a document in it is that document.
            document = json.loads(document) if isinstance(document, str) else document
            assert isinstance(document, list), "a request with one receipt gave another number"
            assert len(document) == len(receipts), f"{len(receipts)} receipts of {len(document)}"


TARGET = Target("pushed_receipt", seeds, opened, WORDS)
