"""Sends the messages of one provider by SMPP 3.4, and takes its receipts.

Each of `sessions` is bound and kept bound (`connection`). A message goes out as one submit_sm for
each segment, all on one session; a session has at most `window` submits without an answer
(`send_queue`, `traffic`). `verdicts` says what one answer means, and `message` what the answers to
all segments of a message mean together. Receipts and messages from handsets (MO)
come in by `deliveries`.

Times of one message, from `submit` on:

    a second             the provider has taken nothing of the message, because it throttles or the
                         window is full: the message is `throttled` (code `window`), and goes to
                         another provider or waits in its queue
    half of timeout_s    no segment goes out any more, so that each that did has the other half for
                         its answer; a message that was taken in part is `throttled` now
    timeout_s            a message without an answer is `unknown`

Under failure, every message gets exactly one verdict:
- no session bound: `temporary` with the code `not_bound`, at once; in the first second after the
  start the message waits for the first bind instead;
- throttled: the session slows down (`congestion`) and the segment is sent again;
- a session lost: messages that went out on it and have no answer are `unknown`; the others go
  out on another session, or are `temporary` when there is none;
- a fault of ours in reading an answer: that message is `unknown` with the code `fault`, and no other
  message is touched;
- this process frozen: what arrived meanwhile is read before anything is timed out;
- this process killed: no verdict; the queue's own record of the message decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable, Sequence

from engine.clocks.store_clock import wall_us
from engine.errors import ConfigError
from engine.hosts.tls import trusting
from engine.inbound.ports import InboundSink
from engine.providers.ports import Done, Verdicts, Wire
from engine.providers.problems import Problems
from engine.providers.secret import secret
from engine.providers.settings import SmppSettings
from engine.providers.smpp.body import PASSWORD_OCTETS, Bind
from engine.providers.smpp.codes import Command
from engine.providers.smpp.connection import Line, Terms
from engine.providers.smpp.deliveries import Inbox, Messages
from engine.providers.smpp.inbound import InboundReader
from engine.providers.smpp.message import OneVerdict
from engine.providers.smpp.receipt import ReceiptReader
from engine.providers.smpp.send_queue import Waiting
from engine.providers.smpp.session import Counts
from engine.providers.smpp.submit import SubmitEncoder
from engine.providers.smpp.traffic import Traffic
from engine.providers.ticker import Ticker
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
    """See `engine.providers.ports.BatchProvider`; `counts` says what has happened so far.

    Raises ConfigError naming the setting that cannot be used.
    """

    # The method of the traffic itself.
    submit_all: Callable[[Sequence[Message], int, Verdicts], None]

    def __init__(
        self,
        settings: SmppSettings,
        receipts: ReceiptSink,
        problems: Problems,
        wire: Wire | None = None,
        now_us: Callable[[], int] = wall_us,
        inbound: InboundSink | None = None,
    ) -> None:
        """`inbound` takes messages from handsets; None: they are dropped.

        `wire` watches the connections. `now_us`: the time, UTC, microseconds since 1970."""
        self._name = settings.name
        self._timeout_s = settings.timeout_s
        self.counts = Counts()
        tick_s = min(0.1, max(0.005, settings.timeout_s / 20))
        waiting = Waiting()
        messages = None if inbound is None else Messages(InboundReader(settings), inbound)
        self._traffic = Traffic(
            settings.name,
            SubmitEncoder(settings).all_bodies,
            waiting,
            Inbox(settings.name, ReceiptReader(settings), receipts, self.counts, problems, now_us, messages),
            self.counts,
            problems,
            timeout_s=settings.timeout_s,
            tick_s=tick_s,
            now_us=now_us,
        )
        self.submit_all = self._traffic.submit_all
        terms = _terms(settings, wire)
        self._lines = waiting.lines = [
            Line(self._traffic, terms, bind, self.counts, problems)
            for _ in range(settings.sessions)
            for bind in _BINDS[settings.bind]
        ]
        self._ticker = Ticker(tick_s, self._traffic.sweep)
        self._traffic.stir = self._ticker.stir
        self._keeping: list[asyncio.Task[None]] = []

    @property
    def name(self) -> str:
        """The name of its section."""
        return self._name

    def submit(self, message: Message, done: Done) -> None:
        """See the port."""
        self.submit_all((message,), 0, OneVerdict(done, self._name))

    async def start(self) -> None:
        """Begin to bind; does not wait for it."""
        self._traffic.patient_to_s = time.monotonic() + FIRST_BIND_S
        self._ticker.start()
        self._keeping = [asyncio.create_task(line.keep()) for line in self._lines]

    async def stop(self) -> None:
        """End in order; a second call does nothing.

        A message with a segment left to send is `temporary` at once. A message in flight has the rest
        of its time-out for its answer, and a receipt as long to be kept. Then the sessions are unbound.
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


def _terms(settings: SmppSettings, wire: Wire | None) -> Terms:
    where = f"providers.{settings.name}"
    password = secret(settings.password, settings.password_file, f"{where}.password")
    if len(password) >= PASSWORD_OCTETS:
        raise ConfigError(f"{where}.password_file: the first line must have at most 63 characters.")
    try:
        bind = Bind(settings.system_id, password, settings.system_type).encode()
    except ValueError as e:
        # The error's text begins with the name of the field, and never shows the value.
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
        wire=wire,
    )


def _ssl_context(settings: SmppSettings) -> ssl.SSLContext | None:
    if not settings.tls:
        return None
    return trusting(settings.tls_ca_file, f"providers.{settings.name}.tls_ca_file")
