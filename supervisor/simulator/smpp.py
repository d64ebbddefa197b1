"""The simulator's SMPP 3.4 server: one session for each connection.

A submit_sm has the same fates as a send over HTTP:

    accepted             ESME_ROK and the provider's id
    temporary, outage    ESME_RSYSERR
    permanent            ESME_RINVDSTADR
    throttled            ESME_RTHROTTLED
    queue_full           ESME_RMSGQFUL: more submits unanswered than `smpp.window`
    timeout              no answer; it takes up no place in the window
    reset                the connection is reset, and the answers not yet given are lost

In an outage binds get ESME_RSYSERR too, and enquire_link is answered. In the outage "refuse" a
connection is closed when it is made or when a PDU arrives. In the outage "hang" nothing that
arrives is answered. Answers go out when they are due, whatever their order.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from engine.providers.smpp.body import decode_bind, decode_short_message, encode_bind_resp
from engine.providers.smpp.codes import ANSWER, Command, CommandStatus, Tag
from engine.providers.smpp.pdu import HEADER_BYTES, Pdu, Reader, WrongPdu, pack
from supervisor.simulator import malformed
from supervisor.simulator.behaviour import Smpp
from supervisor.simulator.draws import Fate
from supervisor.simulator.provider import SimulatedProvider
from supervisor.simulator.receipts import Receipt, as_deliver_sm
from supervisor.simulator.smpp_sessions import ANSWER_S, Sessions
from supervisor.simulator.transport import Delays, Line

# Submits that a session may have unanswered before no more of it is read, whatever the window.
UNANSWERED_MAX = 20_000
# Receipts that one session may carry unanswered.
DELIVERS_MAX = 500
# How long a connection may take to bind.
BIND_S = 10.0
_SEQUENCE_MAX = 0x7FFF_FFFF

# Integers, because members of an enum are slow to look up and every submit needs these.
_SUBMIT: Final = int(Command.submit_sm)
_SUBMIT_RESP: Final = int(Command.submit_sm_resp)
_DELIVER: Final = int(Command.deliver_sm)
_DELIVER_RESP: Final = int(Command.deliver_sm_resp)
_NACK: Final = int(Command.generic_nack)

_STATUSES: dict[Fate, int] = {
    "temporary": int(CommandStatus.ESME_RSYSERR),
    "outage": int(CommandStatus.ESME_RSYSERR),
    "permanent": int(CommandStatus.ESME_RINVDSTADR),
    "throttled": int(CommandStatus.ESME_RTHROTTLED),
    "queue_full": int(CommandStatus.ESME_RMSGQFUL),
}
# By the command of the bind: whether the session may submit, and whether it may receive.
_BINDS: dict[int, tuple[bool, bool]] = {
    int(Command.bind_transmitter): (True, False),
    int(Command.bind_receiver): (False, True),
    int(Command.bind_transceiver): (True, True),
}


class Session(Line):
    """The connection of one client, bound or not yet."""

    __slots__ = (
        "_delays",
        "_delivering",
        "_ends_s",
        "_is_bound",
        "_now_s",
        "_pdus",
        "_provider",
        "_reader",
        "_sequence",
        "_sessions",
        "_submits",
        "_unanswered",
        "system_id",
    )  # fmt: skip

    def __init__(self, provider: SimulatedProvider, sessions: Sessions, delays: Delays[Late]) -> None:
        super().__init__()
        self._provider = provider
        self._sessions = sessions
        self._delays = delays
        self._reader = Reader()
        self.system_id = ""
        self._is_bound = self._submits = False
        # When the connection is closed unless it has bound.
        self._ends_s = time.monotonic() + BIND_S
        self._now_s = 0.0
        # PDUs read, submits to be answered later, and the sequence number of the last deliver_sm.
        self._pdus = self._unanswered = self._sequence = 0
        # Receipts by the sequence number of their deliver_sm, with the time until which it may be answered.
        self._delivering: dict[int, tuple[Receipt, float]] = {}

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join the open sessions; in the outage "refuse" close at once."""
        super().connection_made(transport)
        self._sessions.opened(self)
        if self._provider.behaviour.outage == "refuse":
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the open sessions, and give back the receipts that the client has not answered."""
        super().connection_lost(exc)
        delivering, self._delivering = self._delivering, {}
        self._sessions.closed(self, self._is_bound, [receipt for receipt, _ in delivering.values()])

    def data_received(self, data: bytes) -> None:
        """Take the PDUs that `data` completes; in the outages "refuse" and "hang" only count submits."""
        if not self.is_open:
            return
        behaviour = self._provider.behaviour
        if behaviour.outage in ("refuse", "hang"):
            self._ignore(data, behaviour.outage)
            return
        self._now_s = time.monotonic()
        smpp = behaviour.smpp
        every = smpp.disconnect_every
        reader = self._reader
        chunk, at = reader.begin(data), 0
        while True:
            if self._submits and every is None and not smpp.malformed and not self._is_full(smpp):
                # Nearly all submits; what it leaves is cut here.
                at, taken, answers = self._provider.take_plain(chunk, at, self._now_s)
                if taken:
                    self._pdus += taken
                    self.say(answers)
            pdu = reader.cut(chunk, at)
            if pdu is None:
                break
            if type(pdu) is not Pdu:
                self._refuse(pdu)
                return
            at += HEADER_BYTES + len(pdu.body)
            if pdu.command_id == _SUBMIT:
                self._submit(pdu, smpp)
            else:
                self._other(pdu)
            self._pdus += 1
            if every is not None and self._pdus >= every:
                self.close()
            if self._transport is None:  # closed by what was just read
                return
        reader.keep(chunk, at)
        if self._unanswered >= UNANSWERED_MAX:
            self.read(False)

    def _ignore(self, data: bytes, outage: Fate) -> None:
        for pdu in self._reader.feed(data):
            if type(pdu) is Pdu and pdu.command_id == _SUBMIT:
                self._provider.count(outage)
        if outage == "refuse":
            self.close()

    def _refuse(self, wrong: Pdu | WrongPdu) -> None:
        """Answer bytes that cannot be cut into PDUs by a generic_nack, and close."""
        assert isinstance(wrong, WrongPdu)
        self.say(pack(_NACK, wrong.status, wrong.sequence or 0))
        self.close()

    # -- submits

    def _submit(self, pdu: Pdu, smpp: Smpp) -> None:
        fate, delay_s, answer = self._judge(pdu, smpp)
        if fate == "timeout":
            return
        if smpp.malformed and self._provider.happens(smpp.malformed):
            self.say(malformed.FORMS[self._provider.pick(len(malformed.FORMS))])
        if delay_s:
            self._unanswered += 1
            self._delays.add(self._now_s + delay_s, (self, answer))
        elif answer:
            self.say(answer)
        else:
            self.cut()

    def _judge(self, pdu: Pdu, smpp: Smpp) -> tuple[Fate, float, bytes]:
        """(fate, seconds until it shows, the PDU that answers). The PDU is b"" for `reset` and `timeout`."""
        fate: Fate = "permanent"
        if not self._submits:
            return fate, 0.0, pack(_SUBMIT_RESP, CommandStatus.ESME_RINVBNDSTS, pdu.sequence)
        try:
            message = decode_short_message(pdu.body)
        except WrongPdu as e:
            return fate, 0.0, pack(_SUBMIT_RESP, e.status, pdu.sequence)
        if self._is_full(smpp):
            self._provider.count("queue_full")
            return "queue_full", 0.0, pack(_SUBMIT_RESP, _STATUSES["queue_full"], pdu.sequence)
        fate, delay_s, message_id = self._provider.take_segment(self.system_id, message, self._now_s)
        if fate == "accepted":
            return fate, delay_s, pack(_SUBMIT_RESP, 0, pdu.sequence, message_id.encode() + b"\0")
        if fate in ("timeout", "reset"):
            return fate, delay_s, b""
        return fate, delay_s, pack(_SUBMIT_RESP, _STATUSES[fate], pdu.sequence)

    def _is_full(self, smpp: Smpp) -> bool:
        return smpp.window is not None and self._unanswered >= smpp.window

    def give(self, answer: bytes) -> None:
        """Send an answer that is due; b"" resets the connection."""
        self._unanswered -= 1
        if self._unanswered == UNANSWERED_MAX - 1:
            self.read(True)
        if answer:
            self.say(answer)
        else:
            self.cut()

    # -- everything else

    def _other(self, pdu: Pdu) -> None:
        command, sequence = pdu.command_id, pdu.sequence
        if command in (_DELIVER_RESP, _NACK):
            delivered = self._delivering.pop(sequence, None)
            if delivered is not None:
                taken = command == _DELIVER_RESP and pdu.status == 0
                self._sessions.ended(delivered[0], "sent" if taken else "again")
                self._sessions.pump(self.system_id)
        elif command in _BINDS:
            self._bind(pdu)
        elif command == Command.enquire_link:
            self.say(pack(Command.enquire_link_resp, 0, sequence))
        elif command == Command.unbind:
            status = CommandStatus.ESME_ROK if self._is_bound else CommandStatus.ESME_RINVBNDSTS
            self.say(pack(Command.unbind_resp, status, sequence))
            self.close()
        elif not command & ANSWER:
            self.say(pack(_NACK, CommandStatus.ESME_RINVCMDID, sequence))

    def _bind(self, pdu: Pdu) -> None:
        answer, sequence = pdu.command_id | ANSWER, pdu.sequence
        try:
            bind = decode_bind(pdu.body)
        except WrongPdu as e:
            self.say(pack(answer, e.status, sequence))
            return
        status = CommandStatus.ESME_RALYBND if self._is_bound else self._sessions.judge(bind)
        if status:
            self.say(pack(answer, status, sequence))
            return
        self._is_bound = True
        self.system_id = bind.system_id
        self._submits, receives = _BINDS[pdu.command_id]
        body = encode_bind_resp("simulator", {Tag.sc_interface_version: b"\x34"})
        self.say(pack(answer, 0, sequence, body))
        # Receipts that waited for this bind go out after its answer.
        self._sessions.bound(self, receives)

    # -- receipts

    @property
    def has_room(self) -> bool:
        """Whether it can carry one more receipt now."""
        return self.is_open and not self.is_clogged and len(self._delivering) < DELIVERS_MAX

    def deliver(self, receipt: Receipt) -> None:
        """Send the receipt as a deliver_sm, which the client may answer for ANSWER_S seconds."""
        try:
            body = receipt.body or as_deliver_sm(receipt, self._provider.behaviour.smpp.receipt_form)
        except ValueError:
            # The submit_sm had an address that is too long for a deliver_sm: another try would fail too.
            self._sessions.ended(receipt, "failed")
            return
        self._sequence = self._sequence % _SEQUENCE_MAX + 1
        self._delivering[self._sequence] = receipt, time.monotonic() + ANSWER_S
        self.say(pack(_DELIVER, 0, self._sequence, body))

    def sweep(self, now_s: float) -> None:
        """Close it if it has not bound in time, and end attempts that were not answered in time."""
        if not self._is_bound and now_s >= self._ends_s:
            self.close()
        while self._delivering:
            sequence, (receipt, until_s) = next(iter(self._delivering.items()))
            if now_s < until_s:
                break
            del self._delivering[sequence]
            self._sessions.ended(receipt, "again")


# A session, and the PDU that is due there later; b"" is a reset.
Late = tuple[Session, bytes]


def _give(late: Late) -> None:
    session, answer = late
    session.give(answer)


async def listen_smpp(
    provider: SimulatedProvider, sessions: Sessions, host: str, port: int
) -> asyncio.Server:
    """Listen for SMPP at `host`:`port`. Raises OSError when that is not possible."""
    delays: Delays[Late] = Delays(_give)
    made: Callable[[], Session] = lambda: Session(provider, sessions, delays)  # noqa: E731 - typed
    return await asyncio.get_running_loop().create_server(made, host, port, backlog=4096)
