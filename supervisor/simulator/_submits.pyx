"""The short way of submits that are all accepted at once: many are read, counted and answered in one call.

Nearly all go it while nothing is drawn for a send. What is out of the ordinary stops it, and the caller goes the
long way for that one, by `pdu.Reader`, `body.decode_short_message`, `submit.identity`, `counts.Counts.add`. That
would come to the same for what goes the short one. Tests compare them.
"""

from zlib import crc32

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.unicode cimport PyUnicode_DATA
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy

from supervisor.simulator.submit import MESSAGE_ID_TAG as _MESSAGE_ID_TAG

cdef extern from "Python.h":
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)

cdef enum:
    HEADER = 16
    # As in `pdu`.
    PDU_MAX = 65536
    ID_DIGITS = 16
    # An answer: its header, the id and a NUL.
    ANSWER = HEADER + ID_DIGITS + 1
    # In esm_class: the text begins with a header.
    WITH_HEADER = 0x40
    UUID = 36

cdef uint32_t SUBMIT_SM = 4
cdef uint32_t SUBMIT_SM_RESP = 0x80000004
cdef uint32_t MESSAGE_ID_TAG = _MESSAGE_ID_TAG
# Tags from here on are the providers' own (5.3.2). Those below may say which message it is.
cdef uint32_t OWN_TAGS = 0x1400

cdef const uint8_t *DIGITS = b"0123456789abcdef"


cdef inline uint32_t get_32(const uint8_t *at) noexcept nogil:
    return <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | at[3]


cdef inline void put_32(uint8_t *at, uint32_t value) noexcept nogil:
    at[0] = value >> 24
    at[1] = value >> 16
    at[2] = value >> 8
    at[3] = value


cdef inline void put_hex(uint8_t *at, uint64_t value, int digits) noexcept nogil:
    while digits:
        digits -= 1
        at[digits] = DIGITS[value & 15]
        value >>= 4


cdef inline const uint8_t *after(const uint8_t *at, const uint8_t *end) noexcept nogil:
    """What follows the string that begins `at`; NULL when it has no NUL."""
    at = <const uint8_t *>memchr(at, 0, end - at) if at < end else NULL
    return NULL if at is NULL else at + 1


cdef inline int nibble(uint8_t digit) noexcept nogil:
    if c"0" <= digit <= c"9":
        return digit - c"0"
    return digit - c"a" + 10 if c"a" <= digit <= c"f" else -1


cdef object uuid_key(const uint8_t *name):
    """The 16 octets of a UUID in its canonical spelling; None for another text of that length."""
    cdef uint8_t[16] key
    cdef int i = 0, count = 0, high, low
    while i < UUID:
        if i == 8 or i == 13 or i == 18 or i == 23:
            if name[i] != c"-":
                return None
            i += 1
            continue
        high, low = nibble(name[i]), nibble(name[i + 1])
        if high < 0 or low < 0:
            return None
        key[count] = <uint8_t>(high << 4 | low)
        count += 1
        i += 2
    return PyBytes_FromStringAndSize(<const char *>key, 16)


cdef object plain_text(const uint8_t *octets, Py_ssize_t size, Py_ssize_t further):
    """A str that begins with these, and has room for `further` characters; None when they are not ASCII."""
    cdef Py_ssize_t i
    cdef object text
    for i in range(size):
        if octets[i] >= 0x80:
            return None
    text = PyUnicode_New(size + further, 127)
    memcpy(<void *>PyUnicode_DATA(text), octets, size)
    return text


cdef object key_of(const uint8_t *at, const uint8_t *end):
    """What the submit is counted by, of a message with one segment; None for what goes the long way."""
    cdef const uint8_t *to
    cdef const uint8_t *text
    cdef const uint8_t *named = NULL
    cdef Py_ssize_t to_size, size, named_size = 0
    cdef uint32_t tag, length
    cdef uint8_t esm_class
    cdef object key
    # service_type; source with its types; destination with its own.
    at = after(at, end)
    if at is NULL or (at := after(at + 2, end)) is NULL:
        return None
    to = at + 2
    if (at := after(to, end)) is NULL:
        return None
    to_size = at - 1 - to
    if end - at < 3:
        return None
    esm_class = at[0]
    # protocol_id, priority; two times.
    if (at := after(at + 3, end)) is NULL or (at := after(at, end)) is NULL or end - at < 5:
        return None
    size = at[4]
    text = at + 5
    if esm_class & WITH_HEADER or end - text < size:
        return None
    at = text + size
    while end - at >= 4:
        tag, length = get_32(at) >> 16, get_32(at) & 0xFFFF
        at += 4
        if tag < OWN_TAGS or end - at < <Py_ssize_t>length:
            return None
        if tag == MESSAGE_ID_TAG:
            named, named_size = at, length
        at += length
    if at != end:
        return None
    if named_size:
        while named_size and not named[named_size - 1]:
            named_size -= 1
        key = uuid_key(named) if named_size == UUID else None
        return plain_text(named, named_size, 0) if key is None else key
    if (key := plain_text(to, to_size, 9)) is not None:
        named = <const uint8_t *>PyUnicode_DATA(key) + to_size
        (<uint8_t *>named)[0] = c":"
        put_hex(<uint8_t *>named + 1, crc32(PyBytes_FromStringAndSize(<const char *>text, size)), 8)
    return key


def take_submits(
    bytes chunk, Py_ssize_t at, uint64_t number, list order, list seen, dict repeated
):
    cdef Py_ssize_t end = PyBytes_GET_SIZE(chunk), begin = at, most = PyList_GET_SIZE(seen) - 1, taken = 0
    cdef const uint8_t *octets = <const uint8_t *>PyBytes_AS_STRING(chunk)
    cdef uint8_t *out
    cdef uint32_t length
    cdef object key, answers
    cdef set part
    cdef list keys = []
    while end - at >= HEADER:
        length = get_32(octets + at)
        if length < HEADER or length > PDU_MAX or length > end - at:
            break
        if get_32(octets + at + 4) != SUBMIT_SM:
            break
        key = key_of(octets + at + HEADER, octets + at + length)
        if key is None:
            break
        keys.append(key)
        at += length
    answers = PyBytes_FromStringAndSize(NULL, ANSWER * PyList_GET_SIZE(keys))
    out = <uint8_t *>PyBytes_AS_STRING(answers)
    for key in keys:
        part = <set>PyList_GET_ITEM(seen, hash(key) >> 40 & most)
        if key in part:
            repeated[key] = repeated.get(key, 1) + 1
        else:
            part.add(key)
            order.append(key)
        number += 1
        put_32(out, ANSWER)
        put_32(out + 4, SUBMIT_SM_RESP)
        put_32(out + 8, 0)
        memcpy(out + 12, octets + begin + 12, 4)
        put_hex(out + HEADER, number, ID_DIGITS)
        out[HEADER + ID_DIGITS] = 0
        out += ANSWER
        begin += get_32(octets + begin)
    return at, PyList_GET_SIZE(keys), answers
