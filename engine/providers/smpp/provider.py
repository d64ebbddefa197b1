"""A provider that is spoken to by SMPP 3.4.

Each of `sessions` is bound and kept bound (`smpp_connection`). A message goes out as one
submit_sm for each segment, all on one session, of which at most `window` are without an
answer (`smpp_waiting`, `smpp_traffic`). What the answers to them mean together is in
`smpp_sending`, what a single one means in `smpp_verdicts`. Receipts come in by `smpp_inbox`.
There is no place for messages from handsets (MO) yet: they are answered ESME_ROK, counted
and dropped.

Times of one message, from `submit` on:

    a second             what the provider has taken nothing of by then, because it throttles or
                         the window is full, is `throttled` (code `window`): it had better go
                         to another provider, or wait where it is remembered
    half of timeout_s    the last moment at which a segment goes out, so that each has as long
                         again for its answer; a message taken in part is `throttled` then
    timeout_s            what has no answer is `unknown`

Under failure, every message gets exactly one verdict:
- no session bound: `temporary` with the code `not_bound`, at once; only in the first second
  after the start it waits for the first bind;
- throttled: the session slows down (`smpp_slowdown`) and the segment is sent again;
- a session lost: what went out on it and has no answer is `unknown`; what did not goes out on
  another session, or is `temporary` when there is none;
- a fault of ours in reading an answer: `unknown` with the code `fault`, and nothing else;
- this process frozen: what arrived meanwhile is read before anything is timed out;
- this process killed: no verdict; the queue's own record of the message decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable

from engine.errors import ConfigError
from engine.providers.pacing import Ticker
from engine.providers.ports import Done
from engine.providers.secret import secret
from engine.providers.settings import SmppSettings
from engine.providers.smpp.body import PASSWORD_OCTETS, Bind
from engine.providers.smpp.codes import Command
from engine.providers.smpp.connection import Line, Terms
from engine.providers.smpp.deliveries import Inbox
from engine.providers.smpp.send_queue import Waiting
from engine.providers.smpp.session import Counts
from engine.providers.smpp.submit import SubmitEncoder
from engine.providers.smpp.traffic import Traffic
from engine.receipts.ports import ReceiptSink
from engine.records import Message

# How long messages wait for the first bind after the start, seconds.
FIRST_BIND_S = 1.0
_CONNECT_S_MAX = 10.0

_BINDS = {
    "transceiver": (Command.bind_transceiver,),
    "transmitter": (Command.bind_transmitter,),
    "separate": (Command.bind_transmitter, Command.bind_receiver),
}


class SmppProvider:
    """See `engine.providers.ports.Provider`; `counts` says what has happened so far.

    Raises ConfigError naming the setting that cannot be used.
    """

    # The traffic's own: a call less for each message.
    submit: Callable[[Message, Done], None]

    def __init__(self, settings: SmppSettings, receipts: ReceiptSink) -> None:
        self._name = settings.name
        self._timeout_s = settings.timeout_s
        self.counts = Counts()
        tick_s = min(0.1, max(0.005, settings.timeout_s / 20))
        waiting = Waiting()
        self._traffic = Traffic(
            settings.name,
            SubmitEncoder(settings).bodies,
            waiting,
            Inbox(settings.name, receipts, self.counts),
            self.counts,
            timeout_s=settings.timeout_s,
            tick_s=tick_s,
        )
        self.submit = self._traffic.submit
        terms = _terms(settings)
        self._lines = waiting.lines = [
            Line(self._traffic, terms, bind, self.counts)
            for _ in range(settings.sessions)
            for bind in _BINDS[settings.bind]
        ]
        self._ticker = Ticker(tick_s, self._traffic.sweep)
        self._keeping: list[asyncio.Task[None]] = []

    @property
    def name(self) -> str:
        return self._name

    async def start(self) -> None:
        """Begin to bind; does not wait for it."""
        self._traffic.patient_to_s = time.monotonic() + FIRST_BIND_S
        self._ticker.start()
        self._keeping = [asyncio.create_task(line.keep()) for line in self._lines]

    async def stop(self) -> None:
        """What has a segment left to send is `temporary` at once; what is in flight has the rest
        of its time-out, and so have receipts until they are kept; then the sessions are unbound.
        Again does nothing.
        """
        if self._traffic.stopping:
            return
        self._traffic.stop()
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._traffic.idle.wait(), self._timeout_s)
            await asyncio.gather(*(line.unbind() for line in self._lines))
        finally:
            for keeping in self._keeping:
                keeping.cancel()
            await asyncio.gather(*self._keeping, return_exceptions=True)
            self._ticker.stop()


def _terms(settings: SmppSettings) -> Terms:
    where = f"providers.{settings.name}"
    password = secret(settings.password, settings.password_file, f"{where}.password")
    if len(password) >= PASSWORD_OCTETS:
        raise ConfigError(f"{where}.password_file: the first line must have at most 63 characters.")
    try:
        bind = Bind(settings.system_id, password, settings.system_type).encode()
    except ValueError as e:
        # Its text begins with the name of the field, and never shows the value.
        raise ConfigError(f"{where}.{e}") from e
    return Terms(
        provider=settings.name,
        host=settings.host,
        port=settings.port,
        bind_body=bind,
        window=settings.window,
        timeout_s=min(_CONNECT_S_MAX, settings.timeout_s),
        enquire_link_s=settings.enquire_link_s,
        reconnect_s=settings.reconnect_s,
        reconnect_max_s=settings.reconnect_max_s,
        ssl_context=_ssl_context(settings),
    )


def _ssl_context(settings: SmppSettings) -> ssl.SSLContext | None:
    if not settings.tls:
        return None
    try:
        return ssl.create_default_context(cafile=settings.tls_ca_file or None)
    except (OSError, ValueError) as e:
        # An SSLError is an OSError whose text is its library's.
        reason = "it holds no certificate in PEM form" if isinstance(e, ssl.SSLError) else e.args[-1]
        raise ConfigError(
            f"providers.{settings.name}.tls_ca_file: {settings.tls_ca_file} cannot be used: {reason}."
        ) from e
