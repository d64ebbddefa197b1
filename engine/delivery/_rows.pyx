"""Rows of accepted messages as MessagePack, many in one call: `engine.delivery.sent` says of what.

A row is written value by value into one buffer, which is large enough for the longest form of each, and is copied
from there. Tests compare the rows with what msgspec writes.

    MessagePack   https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from engine._slots cimport Field, field, get

from engine.records import Entry, Message, due_at_us_of

cdef enum:
    # Of a row that ends with the callback URL, and of one that says behind it and the text how receipts name it.
    FIELDS = 23
    FIELDS_MAX = 25
    # Octets of a row without those of its texts: of each value at most nine, and of the row's own head.
    ROOM = 9 * FIELDS_MAX + 3

cdef Field MESSAGE = field(Entry, "message"), QUEUE = field(Entry, "queue")
cdef Field ORGANISATION_ID = field(Message, "organisation_id"), ID = field(Message, "id")
cdef Field ACCEPTED = field(Message, "accepted_at_us"), TO = field(Message, "to")
cdef Field SENDER = field(Message, "sender"), ENCODING = field(Message, "encoding")
cdef Field SEGMENTS = field(Message, "segments"), UNITS = field(Message, "units")
cdef Field ATTEMPTS = field(Message, "attempts"), REFERENCE = field(Message, "reference")
cdef Field CALLBACK_URL = field(Message, "callback_url")


cdef class Buffer:
    """Octets that are written one after another."""

    cdef uint8_t *octets
    cdef Py_ssize_t size, room

    def __dealloc__(self):
        PyMem_Free(self.octets)

    cdef int make_room(self, Py_ssize_t size) except -1:
        """Let `size` more octets fit."""
        cdef uint8_t *octets
        if self.size + size <= self.room:
            return 0
        octets = <uint8_t *>PyMem_Malloc(2 * (self.size + size))
        if octets is NULL:
            raise MemoryError
        if self.size:
            memcpy(octets, self.octets, self.size)
        PyMem_Free(self.octets)
        self.octets, self.room = octets, 2 * (self.size + size)
        return 0

    cdef inline void head(self, uint8_t kind, unsigned long long value, int octets) noexcept:
        """A value's first octet, and a number of so many octets, the highest first."""
        cdef uint8_t *at = self.octets + self.size
        cdef int i
        at[0] = kind
        for i in range(octets):
            at[octets - i] = <uint8_t>(value >> 8 * i)
        self.size += 1 + octets

    cdef inline void negative(self, long long value) noexcept:
        if value >= -(1 << 7):
            self.head(0xD0, value, 1)
        elif value >= -(1 << 15):
            self.head(0xD1, value, 2)
        elif value >= -(<long long>1 << 31):
            self.head(0xD2, value, 4)
        else:
            self.head(0xD3, value, 8)

    cdef inline int number(self, long long value) except -1:
        if -32 <= value < 128:
            self.head(<uint8_t>value, 0, 0)
        elif value < 0:
            self.negative(value)
        elif value < 1 << 8:
            self.head(0xCC, value, 1)
        elif value < 1 << 16:
            self.head(0xCD, value, 2)
        elif value < <long long>1 << 32:
            self.head(0xCE, value, 4)
        else:
            self.head(0xCF, value, 8)
        return 0

    cdef inline int text(self, object text) except -1:
        cdef Py_ssize_t size
        cdef const char *octets = PyUnicode_AsUTF8AndSize(text, &size)
        self.make_room(size + ROOM)
        if size < 32:
            self.head(0xA0 | <uint8_t>size, 0, 0)
        elif size < 1 << 8:
            self.head(0xD9, size, 1)
        elif size < 1 << 16:
            self.head(0xDA, size, 2)
        else:
            self.head(0xDB, size, 4)
        memcpy(self.octets + self.size, octets, size)
        self.size += size
        return 0


def sent_rows(object entries, list ids, list latency_us, str provider, str code, long long now_us, int receipts_by):
    cdef Py_ssize_t count = len(entries), i
    cdef Buffer row = Buffer()
    cdef object entry, message
    cdef long long accepted_at_us
    cdef list rows = []
    if len(ids) != count or len(latency_us) != count:
        raise ValueError("Each entry has an id and a latency.")
    for i in range(count):
        entry = entries[i]
        message = get(entry, MESSAGE)
        accepted_at_us = get(message, ACCEPTED)
        row.size = 0
        row.make_room(ROOM)
        row.head(0xDC, FIELDS_MAX if receipts_by else FIELDS, 2)
        row.number(max(now_us, accepted_at_us))
        row.number(get(message, ORGANISATION_ID))
        row.text(get(message, ID))
        row.number(accepted_at_us)
        row.text("sent")
        row.text(get(entry, QUEUE))
        row.text(get(message, TO))
        row.text(get(message, SENDER))
        row.text(get(message, ENCODING))
        row.number(get(message, SEGMENTS))
        row.number(get(message, UNITS))
        row.number(<long long>get(message, ATTEMPTS) + 1)
        row.text(provider)
        row.text(ids[i])
        row.text(code)
        row.number(latency_us[i])
        row.text(get(message, REFERENCE))
        row.number(0 if type(message) is Message else due_at_us_of(message))
        row.number(0)
        row.head(0xC2, 0, 0)
        row.number(0)
        row.text("")
        row.text(get(message, CALLBACK_URL))
        if receipts_by:
            row.text("")
            row.number(receipts_by)
        rows.append(PyBytes_FromStringAndSize(<const char *>row.octets, row.size))
    return rows
