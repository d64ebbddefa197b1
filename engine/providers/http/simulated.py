"""Sends messages to `smsengine simulator`, the provider that comes with the engine.

`POST {url}/send` with JSON `{"id","to","from","text","segments"}` is answered by
200 `{"status":"accepted","id"}` or by an error `{"code"}`. The verdict by the HTTP status:

    2xx                                        accepted
    429                                        throttled
    5xx, 3xx                                   temporary
    other 4xx                                  permanent
    none: nothing of the request was sent      temporary
    none: no whole answer came in time         unknown

The verdict's code is the one in the answer; without one it is the HTTP status; without an
answer it is the word for what went wrong on the way (`refused`, `timeout`, `reset`, ...).
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import msgspec

from engine.providers.http.verdict import unanswered_verdict
from engine.providers.http_client.address import parse_address, tls_context
from engine.providers.http_client.pool import HttpOutcome, HttpPool
from engine.providers.ports import Done, Wire
from engine.providers.settings import SimulatedSettings
from engine.records import Message, Verdict, VerdictKind


class _Send(msgspec.Struct, frozen=True, gc=False):
    id: str
    to: str
    sender: str = msgspec.field(name="from")
    text: str = ""
    segments: int = 1


# A longer value is no id or code, but a page of some kind.
_Word = Annotated[str, msgspec.Meta(max_length=256)]


class _Answer(msgspec.Struct, frozen=True, gc=False):
    id: _Word = ""
    code: _Word = ""


_HEADERS = b"Content-Type: application/json\r\nAccept: application/json\r\n"
_NOTHING = _Answer()


class SimulatedProvider:
    """The port `engine.providers.ports.Provider` over one pool of connections.

    Raises ConfigError when the settings' URL is not usable.
    """

    def __init__(self, settings: SimulatedSettings, wire: Wire | None = None) -> None:
        address = parse_address(settings.url, f"providers.{settings.name}.url")
        self._name = settings.name
        self._timeout_s = settings.timeout_s
        self._path = f"{address.path}/send".encode()
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(_Answer).decode
        self._pool = HttpPool(
            address.host,
            address.port,
            connections_max=settings.connections_max,
            timeout_s=settings.timeout_s,
            ssl_context=tls_context(address, "", ""),
            wire=wire,
        )

    @property
    def name(self) -> str:
        """The name of its section."""
        return self._name

    async def start(self) -> None:
        """Begin to keep time; connections are opened when messages come."""
        self._pool.start()

    async def stop(self) -> None:
        """Close; what is in flight has up to the time-out for its answer, and is `unknown` then."""
        await self._pool.stop(self._timeout_s)

    def submit(self, message: Message, done: Done) -> None:
        """See `engine.providers.ports.Provider`: begins one request."""
        body = self._encode(
            _Send(message.id, message.to, message.sender, message.text, message.segments),
        )
        self._pool.request(b"POST", self._path, _HEADERS, body, partial(self._ended, done))

    def _ended(self, done: Done, outcome: HttpOutcome) -> None:
        done(self._verdict(outcome))

    def _verdict(self, outcome: HttpOutcome) -> Verdict:
        if outcome.kind != "answered":
            return unanswered_verdict(self._name, outcome)
        try:
            answer = self._decode(outcome.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            answer = _NOTHING  # the status is enough for a verdict
        return Verdict(
            kind=_kind(outcome.status),
            provider=self._name,
            provider_message_id=answer.id if outcome.status < 300 else "",
            code=answer.code or str(outcome.status),
            latency_us=outcome.latency_us,
        )


def _kind(status: int) -> VerdictKind:
    if status < 300:
        return "accepted"
    if status == 429:
        return "throttled"
    return "permanent" if 400 <= status < 500 else "temporary"
