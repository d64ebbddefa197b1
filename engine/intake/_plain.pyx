"""Drafts of the usual kind become addressed messages, a whole request at a time.

Theory. `Addressing.address` says what becomes of any draft. Nearly all of them are *plain*: the destination is
written in E.164, the text is in one encoding that can be counted as it stands, and nothing else is asked for
but perhaps a queue, a sender and a reference. For those the same is done here in one pass, without a call of
Python for a message. Whatever is not plain, or would be refused, is left to `Addressing.address` as a whole:
here nobody is ever refused, so every rule and every sentence of a refusal stands in one place only.

    GSM 7 bit    3GPP TS 23.038, 6.2.1 and 6.2.1.1 (see `engine.intake.segments`)
"""

from cpython.unicode cimport (
    PyUnicode_1BYTE_KIND,
    PyUnicode_4BYTE_KIND,
    PyUnicode_DATA,
    PyUnicode_GET_LENGTH,
    PyUnicode_KIND,
    PyUnicode_READ,
)
from libc.stdint cimport uint8_t, uint16_t

from engine.errors import Refusal
from engine.intake.phone_numbers import PLANS
from engine.intake.phone_numbers import sender as sender_id
from engine.intake.segments import (
    BASIC,
    EXTENSION,
    SEPTETS_EACH,
    SEPTETS_SINGLE,
    UNITS_EACH,
    UNITS_SINGLE,
    measure,
)
from engine.records import QUEUE_DEFAULT, Accepted, Addressed, Message, MessageDraft

# A field that is new is one that `_asks_for_more` or `_addressed` must know.
assert MessageDraft.__struct_fields__ == (
    "to", "text", "sender", "queue", "validity", "send_at", "reference", "callback_url", "smart_encoding"
)

cdef enum:
    CHARACTERS_MAX = 10_000
    SEGMENTS_MAX = 10
    REFERENCE_MAX = 200
    # With the "+".
    NUMBER_MIN = 9
    NUMBER_MAX = 16
    SENDERS_MAX = 4096
    # What a character is; those from CLASSES on are foreign, but for the euro sign.
    FOREIGN = 0
    IN_BASIC = 1
    IN_EXTENSION = 2
    NUL = 3
    CLASSES = 0x3AA
    EURO = 0x20AC
    # Of a calling code nobody has asked for yet.
    UNKNOWN = 0xFFFF

# By code point.
cdef uint8_t[CLASSES] _classes
# By the first three digits of a number: the lengths that it may have, a bit each, and which of its digits must
# not be 0, the first one where that says nothing.
cdef uint16_t[1000] _lengths
cdef uint8_t[1000] _trunks

cdef int _at
for _at in range(CLASSES):
    _classes[_at] = FOREIGN
for _at in range(1000):
    _lengths[_at] = UNKNOWN
for character in BASIC:
    _classes[ord(character)] = IN_BASIC
for character in EXTENSION:
    if ord(character) < CLASSES:
        _classes[ord(character)] = IN_EXTENSION
_classes[0] = NUL

cdef int _septets_single = SEPTETS_SINGLE
cdef int _septets_each = SEPTETS_EACH
cdef int _units_single = UNITS_SINGLE
cdef int _units_each = UNITS_EACH
cdef str _default_queue = QUEUE_DEFAULT
# Senders that were read before, by their text.
cdef dict _senders = {}


cdef int _learn(int three) except -1:
    """Note what numbers look like that begin with these digits."""
    cdef int lengths = 0
    plan = PLANS[f"{three:03d}"]
    if plan is not None:
        for length in plan.lengths:
            lengths |= 1 << <int>length
        _trunks[three] = plan.trunk_at
    _lengths[three] = lengths
    return 0


cdef bint _is_destination(str to) except -1:
    """Whether it is a number as `phone_numbers.e164` writes it. False may also mean that it is not plain."""
    cdef Py_ssize_t size = PyUnicode_GET_LENGTH(to), i
    cdef const uint8_t *digits
    cdef int three
    if not NUMBER_MIN <= size <= NUMBER_MAX or PyUnicode_KIND(to) != PyUnicode_1BYTE_KIND:
        return False
    digits = <const uint8_t *>PyUnicode_DATA(to)
    if digits[0] != c"+":
        return False
    digits += 1
    size -= 1
    for i in range(size):
        if not c"0" <= digits[i] <= c"9":
            return False
    three = (digits[0] - 48) * 100 + (digits[1] - 48) * 10 + digits[2] - 48
    if _lengths[three] == UNKNOWN:
        _learn(three)
    return (_lengths[three] >> size) & 1 and digits[_trunks[three]] != c"0"


cdef int _segments(str text, bint *is_gsm) except -1:
    """How many segments the text has, and whether it is GSM-7. 0: it is not plain."""
    cdef Py_ssize_t size = PyUnicode_GET_LENGTH(text), i, extended = 0
    cdef int kind = PyUnicode_KIND(text), what
    cdef void *data = PyUnicode_DATA(text)
    cdef Py_UCS4 character
    is_gsm[0] = True
    if size == 0 or size > CHARACTERS_MAX:
        return 0
    for i in range(size):
        character = PyUnicode_READ(kind, data, i)
        what = _classes[character] if character < CLASSES else FOREIGN
        if what == IN_BASIC:
            continue
        if what == IN_EXTENSION or character == EURO:
            extended += 1
        elif what == NUL or 0xD800 <= character <= 0xDFFF:
            return 0
        else:
            is_gsm[0] = False
    if is_gsm[0]:
        if size + extended <= _septets_single:
            return 1
        # No escape may be cut from its character.
        return measure(text).segments if extended else <int>((size + _septets_each - 1) // _septets_each)
    if kind == PyUnicode_4BYTE_KIND:
        # It may have surrogate pairs, and none may be cut.
        return measure(text).segments
    if size <= _units_single:
        return 1
    return <int>((size + _units_each - 1) // _units_each)


cdef str _sender(str text):
    """The sender id; None: it is none."""
    cdef str known = <str>_senders.get(text)
    if known is None:
        try:
            known = sender_id(text)
        except Refusal:
            return None
        if len(_senders) >= SENDERS_MAX:
            _senders.clear()
        _senders[text] = known
    return known


cdef class _Prices:
    """The prices in force, asked for when the first message needs one."""

    cdef object _source
    cdef dict _by_prefix
    cdef tuple _lengths

    def __cinit__(self, source):
        self._source = source

    cdef long long of(self, str to) except -1:
        """As `PrefixTable.longest`; the price of the prefix "" is there."""
        if self._by_prefix is None:
            self._by_prefix, self._lengths = self._source.in_force()
        for length in self._lengths:
            price = self._by_prefix.get(to[:<Py_ssize_t>length])
            if price is not None:
                return price
        raise KeyError("")


cdef bint _asks_for_more(draft) except -1:
    """Whether a draft is none, or asks for more than a queue, a sender and a reference."""
    return (
        type(draft) is not MessageDraft
        or draft.send_at is not None
        or draft.validity is not None
        or draft.smart_encoding
        or draft.callback_url
    )


cdef object _addressed(
    organisation_id, message_id, draft, long long now_us, _Prices prices, dict validity_us, permit
):
    """The message, or None when it is not plain or would be refused."""
    cdef str to, text, sender, reference
    cdef bint is_gsm = True
    cdef int segments
    if _asks_for_more(draft):
        return None
    to, text, sender, reference = draft.to, draft.text, draft.sender, draft.reference
    segments = _segments(text, &is_gsm)
    if not 0 < segments <= SEGMENTS_MAX or not _is_destination(to):
        return None
    sender = _sender(sender) if sender else ""
    reference = reference or ""
    if sender is None or PyUnicode_GET_LENGTH(reference) > REFERENCE_MAX or "\0" in reference:
        return None
    if permit is not None:
        try:
            sender = permit(organisation_id, to, sender)
        except Refusal:
            return None
    queue = draft.queue
    if queue is None:
        queue = _default_queue
    message = Message(
        id=message_id,
        organisation_id=organisation_id,
        to=to,
        text=text,
        sender=sender,
        encoding="GSM-7" if is_gsm else "UCS-2",
        segments=segments,
        units=segments * prices.of(to),
        accepted_at_us=now_us,
        expires_at_us=now_us + <long long>validity_us[queue],
        reference=reference,
    )
    return Addressed(queue=queue, message=message)


def addressed_all(organisation_id, drafts, list ids, now_us, prices, dict validity_us, permit, otherwise):
    cdef list found = []
    cdef long long units = 0
    cdef Py_ssize_t place = 0
    cdef _Prices prices_in_force = _Prices(prices)
    for draft in drafts:
        message_id = ids[place]
        place += 1
        one = _addressed(organisation_id, message_id, draft, now_us, prices_in_force, validity_us, permit)
        if one is None:
            one = otherwise(organisation_id, message_id, draft, now_us)
        if type(one) is Addressed:
            units += <long long>one.message.units
        found.append(one)
    return found, units


def outcomes_of(list addressed):
    cdef list outcomes = [], messages = []
    for one in addressed:
        if type(one) is not Addressed:
            outcomes.append(one)
            continue
        messages.append(one)
        message = one.message
        outcomes.append(
            Accepted(
                id=message.id,
                status="scheduled" if one.due_at_us else "accepted",
                queue=one.queue,
                segments=message.segments,
                encoding=message.encoding,
                units=message.units,
                replaced=one.replaced,
            )
        )
    return outcomes, messages
