"""Sends messages to a provider's HTTP API, written as its description says: see `description` and
docs/providers.md.

Under failure, every message has exactly one verdict:
- provider away, or no connection free in time: `temporary`; no byte was sent;
- answered: what `recognition` makes of it; what is not in the provider's own words is noted;
- answered, and a fault of ours in reading it: `unknown`, code `fault`;
- written, and no whole answer within the time-out (reset, garbage, too large, late): `unknown`,
  as the provider may have taken it;
- 429 with Retry-After: until then, at most RETRY_AFTER_S_MAX, messages are `throttled`
  without being sent;
- this process frozen or killed: see `engine.providers.http_client.pool`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

import structlog

from engine.clocks.store_clock import wall_us
from engine.problem_records import ProblemKind
from engine.providers.http.description import Description, describe
from engine.providers.http.escapes import Unencodable
from engine.providers.http.verdict import unanswered_verdict
from engine.providers.http_client.pool import HttpOutcome, HttpPool
from engine.providers.masking import About
from engine.providers.ports import Done, Wire
from engine.providers.problems import Problems
from engine.providers.settings import HttpSettings
from engine.records import Message, Verdict

RETRY_AFTER_S_MAX = 60
# Providers answer in a line or two; a longer answer is not from a provider.
ANSWER_BYTES_MAX = 64 * 1024
_RETRY_AFTER = b"retry-after"
_LOCATION = b"location"
# Octets of an answer that are noted when it is not understood.
_SAMPLE_OCTETS = 1000


class HttpProvider:
    """Sends over one pool of connections; see `engine.providers.ports.Provider`.

    Its receipts come through the API, which reads them by the same description
    (`description.receipt_reader`). Raises ConfigError naming the setting when the
    section cannot be used.
    """

    def __init__(
        self,
        settings: HttpSettings,
        problems: Problems,
        wire: Wire | None = None,
        now_us: Callable[[], int] = wall_us,
    ) -> None:
        """`wire` watches the connections. `now_us`: the time, UTC, microseconds since 1970."""
        description: Description = describe(settings)
        self._name = settings.name
        self._problems = problems
        self._now_us = now_us
        self._timeout_s = settings.timeout_s
        self._template = description.template
        self._recognise = description.recognition.recognise
        self._held_until_s = 0.0
        self._pool = HttpPool(
            description.address.host,
            description.address.port,
            connections_max=settings.connections_max,
            timeout_s=settings.timeout_s,
            body_bytes_max=ANSWER_BYTES_MAX,
            keep_headers=description.recognition.headers | {_RETRY_AFTER, _LOCATION},
            ssl_context=description.ssl_context,
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
        """Begin one request, or refuse at once what cannot be written: see the port."""
        if self._held_until_s and time.monotonic() < self._held_until_s:
            self._refuse(done, Verdict(kind="throttled", provider=self._name, code="retry-after"))
            return
        try:
            request = self._template.build(message, self._now_us())
        except Unencodable:
            self._refuse(done, Verdict(kind="permanent", provider=self._name, code="unencodable"))
            return
        self._pool.request(self._template.method, *request, partial(self._ended, done, message))

    def _refuse(self, done: Done, verdict: Verdict) -> None:
        asyncio.get_running_loop().call_soon(done, verdict)

    def _ended(self, done: Done, message: Message, outcome: HttpOutcome) -> None:
        try:
            verdict = self._verdict(message, outcome)
        except Exception as e:  # a fault in reading an answer must not cost the message its verdict
            structlog.get_logger("http").error("answer not understood", provider=self._name, exc_info=e)
            verdict = Verdict(kind="unknown", provider=self._name, code="fault")
        done(verdict)

    def _verdict(self, message: Message, outcome: HttpOutcome) -> Verdict:
        if outcome.broken:
            self._note(ProblemKind.protocol_broken, outcome.broken, message)
        if outcome.kind != "answered":
            return unanswered_verdict(self._name, outcome)
        recognised = self._recognise(outcome.status, outcome.headers, outcome.body, message.id)
        if recognised.kind == "unknown":
            self._note(ProblemKind.answer_unread, _sample(outcome), message)
        elif recognised.foreign:
            self._note(ProblemKind.refusal_foreign, _sample(outcome), message)
        if recognised.kind == "throttled":
            self._hold(outcome.headers.get(_RETRY_AFTER, b""))
        return Verdict(
            kind=recognised.kind,
            provider=self._name,
            provider_message_id=recognised.id,
            code=recognised.code,
            latency_us=outcome.latency_us,
        )

    def _note(self, kind: ProblemKind, sample: bytes, message: Message) -> None:
        self._problems.note(self._name, kind, sample, About(message.text, message.to))

    def _hold(self, retry_after: bytes) -> None:
        """Leave the provider alone for as long as it asks (RFC 9110, 10.2.3; only in seconds)."""
        if retry_after.isdigit() and len(retry_after) < 9:
            self._held_until_s = time.monotonic() + min(int(retry_after), RETRY_AFTER_S_MAX)


def _sample(outcome: HttpOutcome) -> bytes:
    """The status, where a redirect points to, and the beginning of the body."""
    location = outcome.headers.get(_LOCATION)
    to = b" to " + location if location else b""
    return b"%d%b: %b" % (outcome.status, to, outcome.body[:_SAMPLE_OCTETS])
