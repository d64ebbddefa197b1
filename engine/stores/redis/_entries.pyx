"""The messages of an entry, and what is settled of them, many in one call.

What is out of the ordinary is left to the caller, which then goes message by message: see
`engine.bundle_format`, `engine.stores.redis.queue_wire` and `engine.stores.redis.settle_wire`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem
from cpython.list cimport PyList_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from engine._slots cimport Field, field, get

from engine.records import Entry, Message

cdef enum:
    # As in `engine.bundle_format`: octets of a bundle's head, and of a record's.
    HEAD = 12
    RECORD = 6
    # The first octet of a MessagePack array of up to 15 elements, without their number, and that of one whose
    # number has two octets.
    FIXARRAY = 0x90
    ARRAY_16 = 0xDC

cdef Field MESSAGE = field(Entry, "message"), ENTRY_ID = field(Entry, "entry_id")
cdef Field PLACE = field(Entry, "place"), BUNDLE = field(Entry, "bundle")
cdef Field ORGANISATION_ID = field(Message, "organisation_id"), UNITS = field(Message, "units")


cdef inline Py_ssize_t size_of(const uint8_t *octets) noexcept:
    """Of the message in the record that begins here."""
    return <uint32_t>octets[2] << 24 | <uint32_t>octets[3] << 16 | <uint32_t>octets[4] << 8 | octets[5]


def array_of(bytes packed, int fields):
    cdef const uint8_t *octets = <const uint8_t *>PyBytes_AS_STRING(packed)
    cdef Py_ssize_t end = PyBytes_GET_SIZE(packed), at = HEAD, size, messages, count = 0
    cdef bytes array
    cdef uint8_t *out
    if end <= HEAD or octets[0] != 0xC1 or octets[1] != 1:
        return None
    messages = octets[2] << 8 | octets[3]
    while at < end:
        if end - at <= RECORD:
            return None
        size = size_of(octets + at)
        at += RECORD
        if size < 1 or size > end - at or not FIXARRAY <= octets[at] <= FIXARRAY + fields:
            return None
        at += size
        count += 1
    if count != messages:
        return None
    array = PyBytes_FromStringAndSize(NULL, 3 + end - HEAD - RECORD * count)
    out = <uint8_t *>PyBytes_AS_STRING(array)
    out[0], out[1], out[2] = ARRAY_16, octets[2], octets[3]
    out += 3
    at = HEAD
    while at < end:
        size = size_of(octets + at)
        memcpy(out, octets + at + RECORD, size)
        out += size
        at += RECORD + size
    return array


def add_entries(list entries, list messages, int shard, str queue, bytes entry_id, int deliveries, bytes first_id):
    cdef Py_ssize_t bundle = PyList_GET_SIZE(messages), place
    for place in range(bundle):
        entries.append(Entry(shard, queue, entry_id, messages[place], deliveries, place, bundle, first_id))


def same_entry(object entries, Py_ssize_t at):
    cdef object first = entries[at], entry, entry_id = get(first, ENTRY_ID)
    cdef Py_ssize_t bundle = get(first, BUNDLE), place
    if len(entries) - at < bundle:
        return False
    for place in range(bundle):
        entry = entries[at + place]
        if get(entry, ENTRY_ID) is not entry_id or <Py_ssize_t>get(entry, PLACE) != place:
            return False
    return True


cdef list captured(dict units, object entry, int place, object row):
    """Add its units; what its settlement alone would be."""
    cdef object message = get(entry, MESSAGE)
    cdef object organisation_id = get(message, ORGANISATION_ID), of = get(message, UNITS)
    cdef PyObject *item = PyDict_GetItem(units, organisation_id)
    cdef list sums
    if item is NULL:
        sums = units[organisation_id] = [0, 0]
    else:
        sums = <list>item
    sums[0] = sums[0] + of
    return [place, organisation_id, of, 0, len(row), 0]


def add_captured(dict units, object entries, object rows):
    cdef Py_ssize_t count = len(entries), place
    cdef list details = []
    for place in range(count):
        details += captured(units, entries[place], <int>place, rows[place])
    return details


def captured_alone(dict units, object entries, object rows):
    cdef Py_ssize_t count = len(entries), at
    return [captured(units, entries[at], 0, rows[at]) for at in range(count)]
