"""The short way of messages that are one submit_sm and are accepted at once: many in one call.

Nearly all messages go it. What is out of the ordinary stops a function here, which says how far it came; the
caller goes the long way for that one, and calls again. The long way would come to the same for what goes the
short one: for bodies `SubmitEncoder._any_bodies`, for the stream `pdu.pack` and `pdu.Reader.feed`, for ids
`body.decode_message_id`. Tests compare them.

Nothing here keeps anything or can be interrupted: a call is done, or raises MemoryError.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_DelItem, PyDict_GetItem
from cpython.list cimport PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_1BYTE_KIND, PyUnicode_DATA, PyUnicode_GET_LENGTH, PyUnicode_KIND
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

from engine._slots cimport Field, field, get

from engine.providers.smpp.message import Sending
from engine.records import Message

cdef extern from "Python.h":
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)

cdef enum:
    HEADER = 16
    # As in `pdu`, `body`, `submit`.
    PDU_MAX = 65536
    ID_MAX = 65
    DIGITS_MAX = 20
    TEXT_MAX = 160

cdef uint32_t SUBMIT_SM = 4
cdef uint32_t SUBMIT_SM_RESP = 0x80000004
cdef uint32_t SEQUENCE_MAX = 0x7FFFFFFF

cdef Field SEGMENTS = field(Message, "segments"), ENCODING = field(Message, "encoding")
cdef Field SENDER = field(Message, "sender"), EXPIRES = field(Message, "expires_at_us")
cdef Field SINGLE = field(Sending, "single"), SENT_S = field(Sending, "sent_s")
cdef Field BODIES = field(Sending, "bodies"), VERDICTS = field(Sending, "verdicts")
cdef Field TOKEN = field(Sending, "token")
cdef Field TO = field(Message, "to"), TEXT = field(Message, "text")

# Octets that nearly all ids are made of.
cdef uint8_t[256] ID_OCTETS
memset(ID_OCTETS, 0, 256)
for _octet in map(ord, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_.:"):
    ID_OCTETS[_octet] = 1


cdef inline void put_32(uint8_t *at, uint32_t value) noexcept nogil:
    at[0] = value >> 24
    at[1] = value >> 16
    at[2] = value >> 8
    at[3] = value


cdef inline uint32_t get_32(const uint8_t *at) noexcept nogil:
    return <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | at[3]


cdef bytes body_of(bytes before, str number, bytes middle, str written, bytes octets, bytes parameters):
    """The body of one submit_sm; None for what goes the long way."""
    cdef Py_ssize_t digits = PyUnicode_GET_LENGTH(number) - 1, length = PyUnicode_GET_LENGTH(written), i
    cdef const uint8_t *to
    cdef const uint8_t *text
    cdef const uint8_t *table = <const uint8_t *>PyBytes_AS_STRING(octets)
    cdef uint8_t *out
    cdef bytes body
    if PyUnicode_KIND(number) != PyUnicode_1BYTE_KIND or PyUnicode_KIND(written) != PyUnicode_1BYTE_KIND:
        return None
    to, text = <const uint8_t *>PyUnicode_DATA(number), <const uint8_t *>PyUnicode_DATA(written)
    if not (1 <= digits <= DIGITS_MAX and to[0] == c"+" and 1 <= length <= TEXT_MAX):
        return None
    for i in range(1, digits + 1):
        if not c"0" <= to[i] <= c"9":
            return None
    for i in range(length):
        if not table[text[i]]:
            return None
    body = PyBytes_FromStringAndSize(
        NULL, len(before) + digits + len(middle) + 1 + length + len(parameters)
    )
    out = put(<uint8_t *>PyBytes_AS_STRING(body), before)
    memcpy(out, to + 1, digits)
    out = put(out + digits, middle)
    out[0] = <uint8_t>length
    for i in range(length):
        out[1 + i] = table[text[i]]
    put(out + 1 + length, parameters)
    return body


cdef inline uint8_t *put(uint8_t *out, bytes octets) noexcept:
    memcpy(out, PyBytes_AS_STRING(octets), PyBytes_GET_SIZE(octets))
    return out + PyBytes_GET_SIZE(octets)


def add_bodies(
    list found, object messages, bytes octets, dict senders, dict middles, long long from_us, bytes parameters
):
    cdef Py_ssize_t at = PyList_GET_SIZE(found), count = len(messages)
    cdef long long end_s, known_s = -1
    cdef PyObject *item
    cdef object message, sender = None, of
    cdef bytes before = None, middle = None, body
    while at < count:
        message = messages[at]
        if get(message, SEGMENTS) != 1 or get(message, ENCODING) != "GSM-7":
            return
        of = get(message, SENDER)
        if of is not sender:
            item = PyDict_GetItem(senders, of)
            if item is NULL:
                return
            sender, before = of, <bytes>item
        try:
            end_s = <long long>get(message, EXPIRES) - from_us
        except OverflowError:
            # No time that anybody has set.
            return
        if end_s < 0:
            return
        end_s //= 1000000
        if end_s != known_s:
            item = PyDict_GetItem(middles, end_s)
            if item is NULL:
                return
            known_s, middle = end_s, <bytes>item
        body = body_of(before, <str>get(message, TO), middle, <str>get(message, TEXT), octets, parameters)
        if body is None:
            return
        found.append((body,))
        at += 1


def add_sendings(list begun, list found, Py_ssize_t at, object verdicts, Py_ssize_t first, double now_s):
    cdef Py_ssize_t count = PyList_GET_SIZE(found)
    cdef object bodies, at_s = now_s
    while at < count:
        bodies = found[at]
        if not isinstance(bodies, tuple):
            break
        begun.append(Sending(verdicts, first + at, bodies, at_s, True))
        at += 1
    return at


def take_singles(object messages, Py_ssize_t most, double now_s, list segments):
    cdef Py_ssize_t taken = 0
    cdef object sending, at_s = now_s
    while taken < most and messages:
        sending = messages[0]
        if not get(sending, SINGLE) or get(sending, SENT_S):
            break
        messages.popleft()
        sending.sent_s = at_s
        segments.append((sending, 0, get(sending, BODIES)[0]))
        taken += 1
    return taken


def pack_submits(list segments, dict pending, uint32_t sequence):
    cdef Py_ssize_t size = 0, length
    cdef tuple segment
    cdef bytes body, packed
    cdef uint8_t *out
    for segment in segments:
        size += HEADER + len(<bytes>segment[2])
    packed = PyBytes_FromStringAndSize(NULL, size)
    out = <uint8_t *>PyBytes_AS_STRING(packed)
    for segment in segments:
        body = <bytes>segment[2]
        length = PyBytes_GET_SIZE(body)
        sequence = sequence + 1 if sequence < SEQUENCE_MAX else 1
        pending[sequence] = segment
        put_32(out, <uint32_t>(HEADER + length))
        put_32(out + 4, SUBMIT_SM)
        put_32(out + 8, 0)
        put_32(out + 12, sequence)
        memcpy(out + HEADER, PyBytes_AS_STRING(body), length)
        out += HEADER + length
    return packed, sequence


def take_answers(bytes chunk, Py_ssize_t at, dict pending, list answers):
    cdef Py_ssize_t end = PyBytes_GET_SIZE(chunk)
    cdef const uint8_t *octets = <const uint8_t *>PyBytes_AS_STRING(chunk)
    cdef uint32_t length
    cdef object sequence, segment
    cdef PyObject *item
    while end - at >= HEADER:
        length = get_32(octets + at)
        if length < HEADER or length > PDU_MAX or length > end - at:
            break
        if get_32(octets + at + 4) != SUBMIT_SM_RESP:
            break
        sequence = get_32(octets + at + 12)
        item = PyDict_GetItem(pending, sequence)
        if item is NULL:
            break
        segment = <object>item
        PyDict_DelItem(pending, sequence)
        answers.append((
            segment,
            get_32(octets + at + 8),
            PyBytes_FromStringAndSize(<const char *>octets + at + HEADER, length - HEADER),
        ))
        at += length
    return at


def accepted_run(list answers, Py_ssize_t at, double now_s):
    cdef Py_ssize_t count = PyList_GET_SIZE(answers), size, i
    cdef list tokens = [], ids = [], latency_us = []
    cdef tuple answer
    cdef object sending, verdicts = None, of, sent, took = 0, message_id
    cdef double sent_s = -1.0
    cdef const uint8_t *octets
    while at < count:
        answer = <tuple>answers[at]
        sending = (<tuple>answer[0])[0]
        if <long long>answer[1] or not get(sending, SINGLE):
            break
        octets = <const uint8_t *>PyBytes_AS_STRING(<bytes>answer[2])
        size = PyBytes_GET_SIZE(<bytes>answer[2]) - 1
        if not 1 <= size < ID_MAX or octets[size]:
            break
        i = 0
        while i < size and ID_OCTETS[octets[i]]:
            i += 1
        if i < size:
            break
        of = get(sending, VERDICTS)
        if of is not verdicts:
            if verdicts is not None:
                break
            verdicts = of
        sent = get(sending, SENT_S)
        if <double>sent != sent_s:
            sent_s = sent
            took = <long long>((now_s - sent_s) * 1e6)
        message_id = PyUnicode_New(size, 127)
        memcpy(<void *>PyUnicode_DATA(message_id), octets, size)
        tokens.append(get(sending, TOKEN))
        ids.append(message_id)
        latency_us.append(took)
        at += 1
    return at, verdicts, tokens, ids, latency_us
