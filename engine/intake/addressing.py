"""Rule: what a caller asks for becomes a message: number, sender, segments, price, validity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from engine.errors import Refusal
from engine.hosts.webhook_urls import ALLOWED as CALLBACK_ALLOWED
from engine.hosts.webhook_urls import target_of
from engine.intake._plain import addressed_all
from engine.intake.phone_numbers import e164
from engine.intake.phone_numbers import sender as sender_id
from engine.intake.ports import Prices
from engine.intake.segments import measure
from engine.intake.smart_encoding import replaced
from engine.records import QUEUE_DEFAULT, Addressed, Message, MessageDraft, Queue

# The longest validity, and how far ahead a message may be scheduled, seconds.
VALIDITY_MAX_S = 7 * 86400
SEND_AT_MAX_S = 35 * 86400
_SEGMENTS_MAX = 10
# A text of more characters than this needs more segments than that, whatever it is made of. It is not
# measured: megabytes of it, perhaps for each of many recipients, would hold up the process for seconds.
_CHARACTERS_MAX = 10_000
_REFERENCE_MAX = 200
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# (organisation, number in E.164, the sender that the message names, or "") → its sender. Raises Refusal when
# it may not be sent, Unavailable while that is not known.
Permit = Callable[[int, str, str], str]
# Whether an organisation may send to anybody under any sender now, so that its messages need no permit.
Free = Callable[[int], bool]


def any_sender(organisation_id: int, to: str, sender: str) -> str:
    """Every message may be sent, under the sender that it names."""
    return sender


def never_free(organisation_id: int) -> bool:
    """Every message needs a permit."""
    return False


class Addressing:
    """Addresses drafts, by the prices in force and the validities of the queues."""

    def __init__(
        self,
        prices: Prices,
        validity_s: Mapping[Queue, int],
        permit: Permit = any_sender,
        free: Free = never_free,
    ) -> None:
        """`validity_s`: by queue, of messages that name no validity."""
        self._permit = permit
        self._free = free
        self._default_us = {queue: seconds * 1_000_000 for queue, seconds in validity_s.items()}
        self._prices = prices
        self._default_s = validity_s

    def address_all(
        self, organisation_id: int, ids: list[str], drafts: Sequence[MessageDraft | Refusal], now_us: int
    ) -> tuple[list[Addressed | Refusal], int]:
        """(as `address`, of each draft with its id; the units of all that are not refused)."""
        return addressed_all(
            organisation_id,
            drafts,
            ids,
            now_us,
            self._prices,
            self._default_us,
            None if self._permit is any_sender or self._free(organisation_id) else self._permit,
            self.address,
        )

    def address(
        self, organisation_id: int, message_id: str, draft: MessageDraft | Refusal, now_us: int
    ) -> Addressed | Refusal:
        """The message as it will be admitted, accepted at `now_us`; or why it is refused.

        Raises Unavailable while no prices are known, or not who has opted out."""
        if isinstance(draft, Refusal):
            return draft
        text, queue, count_replaced = draft.text, draft.queue or QUEUE_DEFAULT, 0
        try:
            to = e164(draft.to)
            sender = sender_id(draft.sender) if draft.sender else ""
            _check_text(text)
            if draft.smart_encoding:
                text, count_replaced = replaced(text)
            measured = measure(text)
            count = measured.segments
            if count > _SEGMENTS_MAX:
                raise _invalid("text", f"at most {_SEGMENTS_MAX} segments; this text needs {count}")
            due_at_us = _due_at_us(draft.send_at, now_us) if draft.send_at is not None else 0
            validity_s = self._default_s[queue] if draft.validity is None else _validity_s(draft.validity)
            reference = draft.reference or ""
            if len(reference) > _REFERENCE_MAX:
                raise _invalid("reference", f"at most {_REFERENCE_MAX} characters")
            if "\0" in reference:
                raise _nul("reference")
            sender = self._permit(organisation_id, to, sender)
            callback_url = draft.callback_url or ""
            if callback_url and target_of(callback_url) is None:
                raise _invalid("callback_url", CALLBACK_ALLOWED)
        except Refusal as refusal:
            return refusal
        message = Message(
            id=message_id,
            organisation_id=organisation_id,
            to=to,
            text=text,
            sender=sender,
            encoding=measured.encoding,
            segments=count,
            units=count * self._prices.units_per_segment(to),
            accepted_at_us=now_us,
            expires_at_us=(due_at_us or now_us) + validity_s * 1_000_000,
            reference=reference,
            callback_url=callback_url,
        )
        return Addressed(queue=queue, message=message, due_at_us=due_at_us, replaced=count_replaced)


def _validity_s(seconds: int) -> int:
    if not 1 <= seconds <= VALIDITY_MAX_S:
        raise _invalid("validity", f"from 1 to {VALIDITY_MAX_S} seconds")
    return seconds


def _check_text(text: str) -> None:
    """Raise Refusal for a text that is empty, has U+0000 in it, or is too long to be measured."""
    if not text:
        raise _invalid("text", "at least one character")
    if "\0" in text:
        # It ends the text for many a provider; whoever sends it has padded a buffer.
        raise _nul("text")
    if len(text) > _CHARACTERS_MAX:
        raise _invalid("text", f"at most {_SEGMENTS_MAX} segments; this text has {len(text)} characters")


def _nul(field: str) -> Refusal:
    return Refusal("invalid_text", 422, f"`{field}` must be without the character U+0000.", field)


def _due_at_us(send_at: str, now_us: int) -> int:
    try:
        at = datetime.fromisoformat(send_at)
    except ValueError:
        at = datetime.min
    if at.tzinfo is None:
        raise _invalid("send_at", "an RFC 3339 time with an offset, such as 2030-01-31T09:00:00Z")
    # A difference cannot overflow. A time in UTC can: 9999-12-31T23:59:59-01:00 is in the year 10000.
    due_at_us = (at - _EPOCH) // timedelta(microseconds=1)
    if not now_us < due_at_us <= now_us + SEND_AT_MAX_S * 1_000_000:
        raise _invalid("send_at", "in the future, at most 35 days from now")
    return due_at_us


def _invalid(field: str, allowed: str) -> Refusal:
    return Refusal("invalid_field", 422, f"`{field}` must be {allowed}.", field)
