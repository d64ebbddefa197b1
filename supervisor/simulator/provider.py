"""The simulated provider: takes sends, decides their fate, keeps count, changes behaviour.

There are no sockets and no timers here. The methods return the answer to a send, and when it
goes out, to the servers. They give receipts to a `Post`. `now_s` is time.monotonic().

A message is counted when its send over HTTP is taken, or its first segment over SMPP. Further
segments are counted apart, as ID/2, ID/3, ... (see `supervisor.simulator.submit`).
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from http import HTTPStatus
from random import Random
from typing import Annotated, NamedTuple

import msgspec

from engine.providers.smpp.body import ShortMessage
from supervisor.simulator import wire
from supervisor.simulator.behaviour import Behaviour, IdForm, changed
from supervisor.simulator.counts import Counts, Flow
from supervisor.simulator.draws import BEFORE, Fate, ReceiptPlan, Sampler
from supervisor.simulator.receipts import Post, Receipt, Sent, answer_id, receipt_id
from supervisor.simulator.submit import identity


class Send(msgspec.Struct, frozen=True, gc=False):
    """The body of one `POST /send`."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    to: str
    text: str
    sender: str = msgspec.field(name="from", default="")
    segments: Annotated[int, msgspec.Meta(ge=1)] = 1


_decode = msgspec.json.Decoder(Send).decode

# All of an accepted answer is constant, except for an id of 16 digits.
_ACCEPTED_PLAIN = wire.answer(
    HTTPStatus.OK, wire.JSON, b'{"status":"accepted","id":"%b"}' % (b"0" * 16)
).replace(b"0" * 16 + b'"}', b'%016x"}')


class Held(NamedTuple):
    """An answer that waits until its receipt, which goes first, is out."""

    answer: bytes
    receipt: Receipt


def _error(status: HTTPStatus, code: str, *, headers: bytes = b"") -> bytes:
    return wire.json_answer({"status": "error", "code": code}, status, headers=headers)


_ANSWERS: dict[Fate, bytes | None] = {
    "temporary": _error(HTTPStatus.SERVICE_UNAVAILABLE, "temporary"),
    "permanent": _error(HTTPStatus.UNPROCESSABLE_ENTITY, "rejected"),
    "timeout": None,
    "reset": wire.RESET,
    "outage": _error(HTTPStatus.SERVICE_UNAVAILABLE, "outage"),
    "refuse": wire.CLOSE,
    "hang": None,
}

# registered_delivery (SMPP 3.4, 5.2.17): 0 asks for no receipts, 1 for all, 2 for failures only.
_RECEIPTS = 0x03
_ALL_RECEIPTS = 1
_FAILURES = 2


class SimulatedProvider:
    """The state that all connections share. Without `post` no receipts are sent, whatever the behaviour."""

    def __init__(self, behaviour: Behaviour, post: Post | None = None) -> None:
        self.counts = Counts()
        # Segments after a message's first, over SMPP.
        self.further = Counts()
        self.flow = Flow()
        self._post = post
        # Sends by fate, except those that the plain path accepted: they are `received` less the rest.
        self.fates: dict[str, int] = {}
        # The first half of the ids given out is random: every start gives other ids.
        self._next_id = secrets.randbits(31) << 32
        self._random = Random()
        self._set(behaviour, reseed=True)

    def _set(self, behaviour: Behaviour, reseed: bool) -> None:
        if reseed:
            self._random.seed(behaviour.seed)
        self.behaviour = behaviour
        self._sampler = Sampler(behaviour, self._random)
        receipts = behaviour.receipts if self._post is not None else None
        self._receipts = ReceiptPlan(receipts, self._random) if receipts is not None else None
        self._id_form: IdForm = receipts.id_form if receipts is not None else "same"
        self._plain = self._sampler.plain and receipts is None

    def take(self, body: bytes | bytearray, now_s: float) -> tuple[bytes | Held | None, float]:
        """Take one send, whose JSON is `body`: (answer, seconds until it goes out).

        The answer is None when the send is never answered.
        """
        try:
            send = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as e:
            return _not_a_send(e), 0.0
        if self._plain:
            self.counts.add(send.id)
            self.flow.add(now_s, send.segments)
            self._next_id += 1
            return _ACCEPTED_PLAIN % self._next_id, 0.0
        fate, delay_s = self._sampler.fate(now_s, send.segments)
        answer, first = _ANSWERS.get(fate), None
        if self._takes(fate):
            self.counts.add(send.id)
            self.flow.add(now_s, send.segments)
            self._next_id += 1
            receipts = self.behaviour.receipts
            if receipts is not None and receipts.url is not None:
                first = self._promise(Sent(send.id, send.sender, send.to), now_s, delay_s)
        if fate == "accepted":
            answer = self._accepted()
        elif fate == "throttled":
            retry_after = b"Retry-After: %d\r\n" % max(1, math.ceil(delay_s))
            return _error(HTTPStatus.TOO_MANY_REQUESTS, "throttled", headers=retry_after), 0.0
        if first is not None and answer is not None:
            return Held(answer, first), delay_s
        if first is not None:
            self.tell_first(first, None)
        return answer, delay_s

    def take_segment(self, system_id: str, message: ShortMessage, now_s: float) -> tuple[Fate, float, str]:
        """Take one submit_sm: (its fate, seconds until it is answered, the provider's id).

        The id is "" when the provider does not take it.
        """
        fate: Fate
        if self._plain:
            fate, delay_s = "accepted", 0.0
        else:
            fate, delay_s = self._sampler.fate(now_s)
            if not self._takes(fate):
                return fate, 0.0 if fate == "throttled" else delay_s, ""
        message_id, segment = identity(message)
        if segment == 1:
            self.counts.add(message_id)
        else:
            self.further.add(f"{message_id}/{segment}")
        self.flow.add(now_s, 1)
        self._next_id += 1
        wanted = message.registered_delivery & _RECEIPTS
        if self._receipts is not None and wanted in (_ALL_RECEIPTS, _FAILURES):
            first = self._promise(_sent(message_id, system_id, message), now_s, delay_s, wanted)
            if first is not None:
                self.tell_first(first, None)
        return fate, delay_s, answer_id(self._next_id, self._id_form)

    def take_plain(self, chunk: bytes, at: int, now_s: float) -> tuple[int, int, bytes]:
        """Take the submits that `chunk` has from `at` on, up to the first octets that are no whole submit_sm
        of a message with one segment: (where those are, how many submits, the PDUs that answer them at once).

        None is taken while anything is to be drawn for a send.
        """
        if not self._plain:
            return at, 0, b""
        end, taken, answers = self.counts.add_submits(chunk, at, self._next_id)
        if taken:
            self._next_id += taken
            self.flow.add(now_s, taken)
        return end, taken, answers

    def _takes(self, fate: Fate) -> bool:
        """Count a fate, and tell whether the provider takes the send."""
        self.count(fate)
        return fate == "accepted" or (fate in ("timeout", "reset") and self.behaviour.lost_answers_count)

    def _promise(
        self, sent: Sent, now_s: float, answer_s: float, wanted: int = _ALL_RECEIPTS
    ) -> Receipt | None:
        """Post the receipts of the send just taken; return the one that goes before the answer, if any."""
        assert self._receipts is not None
        assert self._post is not None
        written = receipt_id(self._next_id, self._id_form)
        now_wall_s = time.time()
        first = None
        for after_s, state in self._receipts.draw(answer_s):
            if wanted == _FAILURES and state != "undelivered":
                continue
            receipt = Receipt(sent, written, state, now_wall_s, now_wall_s + max(after_s, 0.0))
            if after_s == BEFORE:
                first = receipt
            else:
                self._post.post(now_s + after_s, receipt)
        return first

    def tell_first(self, receipt: Receipt, then: Callable[[], None] | None) -> None:
        """Send a receipt that goes before its answer; `then` is called when its first attempt has ended."""
        assert self._post is not None
        self._post.post_now(receipt, then)

    def _accepted(self) -> bytes:
        if self._id_form == "same":
            return _ACCEPTED_PLAIN % self._next_id
        return wire.json_answer({"status": "accepted", "id": answer_id(self._next_id, self._id_form)})

    def count(self, fate: Fate) -> None:
        """Count one send with this fate."""
        self.fates[fate] = self.fates.get(fate, 0) + 1

    def happens(self, rate: float) -> bool:
        """Draw whether something happens whose share is `rate`, 0 to 1."""
        return rate > 0 and self._random.random() < rate

    def pick(self, count: int) -> int:
        """Draw a number from 0 to `count` - 1."""
        return self._random.randrange(count)

    def reset(self) -> None:
        """Set all counts to 0 and forget the receipts that are not out."""
        self.counts.reset()
        self.further.reset()
        self.flow.reset()
        self.fates.clear()
        if self._post is not None:
            self._post.reset()

    def change(self, change: bytes) -> None:
        """Change the behaviour as a JSON object says; see `behaviour.changed`. Raises Refusal."""
        behaviour = changed(self.behaviour, change)
        # A change that names the seed starts its sequence again, also when the seed is the same.
        self._set(behaviour, reseed="seed" in msgspec.json.decode(change))


def _sent(message_id: str, system_id: str, m: ShortMessage) -> Sent:
    types = m.source_ton, m.source_npi, m.destination_ton, m.destination_npi
    return Sent(message_id, m.source, m.destination, system_id, types)


def _not_a_send(error: Exception) -> bytes:
    what, _, where = str(error).partition(" - at `$.")
    field = where.rstrip("`") or None
    return wire.problem(HTTPStatus.BAD_REQUEST, f"The body is not a send: {what}.", field)
