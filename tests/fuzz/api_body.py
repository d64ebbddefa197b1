"""Bodies of our API's requests, from the octets to what was admitted, without a socket.

The first octet chooses the call.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from engine.api import admin, messages, prices, routes
from engine.api.problems import problem_of
from engine.api.response import answer_of
from engine.errors import Refusal
from engine.intake.ingest import Ingest
from engine.records import Accepted
from tests.fuzz.intake import CreditDesk, ingest, units_of
from tests.fuzz.target import Bench, Check, Target, bench

_OPERATORS = (
    admin._ORGANISATION, admin._CHANGE, admin.KEY_WISH, admin._TOP_UP, prices._PRICES, routes._ROUTES,
    routes._ROUTE,
    routes._PAUSE, routes._RESUMPTION, routes._CHANGE,
)  # fmt: skip
# So many first octets are a message, and as many a batch.
_EACH = 80
GOOD = b'{"to": "+4915112345678", "text": "Your code is 123456"}'
MESSAGES = [
    GOOD,
    b'{"to": "+989121234567", "text": "\xd8\xb3\xd9\x84", "from": "Demo", "queue": "express"}',
    b'{"to": "00491511234567", "text": "x", "validity": 60, "reference": "invoice-1", "queue": null}',
    b'{"to": "+14155550123", "text": "\\ud83d\\ude00", "send_at": "2030-01-31T09:00:00Z"}',
    b'{"to": "+14155550123", "text": "\\ud83d", "send_at": "9999-12-31T23:59:59-23:59"}',
    '{"to": "\u202a+49 (0) 151\u00a01234\u20115678", "text": "n"}'.encode(),
    b'{"to": "\xd9\xa0\xd9\xa9", "text": "' + b"x" * 1600 + b'"}',
]
OPERATORS = [
    b'{"name": "Acme"}', b'{"low_balance": null}', b"{}", b'{"units": 1000, "reference": "first"}',
    b'{"prices": {"": 1, "+98": 2}, "version": 3}',
    b'{"routes": [{"prefix": "+98", "providers": ["first"], "weights": [1]}], "version": 1}',
    b'{"prefix": "+98", "sender": "", "queue": "express", "providers": ["first", "second"], "reroute": true}',
    b"{}", b'{"throughput": 1.5}',
]  # fmt: skip
WORDS = (
    b'"to"', b'"text"', b'"from"', b'"queue"', b'"validity"', b'"send_at"', b'"reference"', b'"messages"',
    b'"express"',
    b'"normal"', b"null", b"true", b"1e400", b"-0", b"9223372036854775808", b"\\u0000", b"\\ud83d",
    b"\\ude00",
    b"\xef\xbb\xbf", b"\xed\xa0\xbd", b"[[[[", b"{{", b'"+98"', b'"version"', b'"units"', b'"name"',
    b'"routes"',
    b"2030-01-31T24:00:00+23:59", b"NaN", b"\xe2\x80\xaa", b"\xd9\xa1", b"(0)", GOOD,
)  # fmt: skip


def seeds() -> list[bytes]:
    found = [b"\0" + one for one in MESSAGES]
    found += [bytes([_EACH]) + b'{"messages": [%b, %b]}' % (one, GOOD) for one in MESSAGES]
    found += [
        bytes([_EACH]) + b'{"messages": []}',
        bytes([_EACH]) + b'{"messages": [' + b"1," * 1000 + b"1]}",
    ]
    return found + [bytes([2 * _EACH + n]) + one for n, one in enumerate(OPERATORS)]


@contextlib.contextmanager
def opened() -> Iterator[Check]:
    desk = CreditDesk()
    with bench() as on:
        yield partial(check, on, desk, ingest(desk))


def check(on: Bench, desk: CreditDesk, takes: Ingest, data: bytes) -> None:
    call, body = (data[0], data[1:]) if data else (0, b"")
    desk.taken()
    try:
        if call >= 2 * _EACH:
            _OPERATORS[(call - 2 * _EACH) % len(_OPERATORS)].decode(body)
            return
        drafts, render = messages.SUBMISSIONS["/v1/messages/batch" if call >= _EACH else "/v1/messages"].read(
            body
        )
        outcomes: list[Accepted | Refusal] = []
        on.run(_submitted(takes, drafts, outcomes, render))
    except Refusal as e:
        assert e.status in (400, 402, 413, 422), f"refused with {e.status}"
        assert e.detail
        # It may quote anything that JSON can carry.
        answer_of(e.status, problem_of(e, request_id="r"))
        assert not desk.taken(), "admitted and refused"
        return
    assert len(outcomes) == len(drafts)
    if call >= _EACH:
        # A text that is no UTF-8 takes none of the other messages with it.
        batch = json.loads(body.decode("utf-8-sig", "replace"))
        assert len(batch["messages"]) == len(drafts), "a message of the batch has no result"
    assert desk.taken() == units_of(outcomes), "what was admitted is not what was answered"


async def _submitted(
    takes: Ingest,
    drafts: Sequence[messages.Draft],
    outcomes: list[Accepted | Refusal],
    render: Callable[[Sequence[Accepted | Refusal]], bytes],
) -> None:
    def rendered(given: Sequence[Accepted | Refusal]) -> bytes:
        outcomes.extend(given)
        return render(given)

    await takes.submit(1, drafts, render=rendered)


TARGET = Target("api_body", seeds, opened, WORDS)
