"""What a flush lets in together: the octets of its messages and of their rows, packed.

Theory. Each message is written twice: as it lies in its queue (`engine.message_format`) and as the row of its
acceptance (`engine.records.ActivityRow`). Both are MessagePack arrays of its fields, which are read once here
and appended to buffers; no object of Python is made for a message. Numbers and texts take the shortest form
there is, as msgspec writes them, so the octets are those that it would write. A value of any other kind goes
through msgspec.

    MessagePack   https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

import msgspec

from engine import bundle_format, message_format
from engine.records import QUEUES, ActivityRow, Message, ScheduledMessage

cdef enum:
    # Octets before a message in a bundle.
    HEADER = 6
    # Messages that may go to a list together are of one organisation, and one, or of so many octets: `append_new` in
    # functions/queue puts a run into one chunk. It has whole turns of so many messages, as `fits` there says.
    RUN = 1250
    RUN_MOST = 1500
    TURN = 4
    # Fields of a message, and of its row without the text.
    MESSAGE_FIELDS = 15
    ROW_FIELDS = 23

_encode = msgspec.msgpack.Encoder().encode

cdef int _messages_max = bundle_format.MESSAGES_MAX
cdef size_t _octets_max = bundle_format.OCTETS_MAX
cdef str _express = QUEUES[0]
# A field that is new is one that `_write` must write.
assert len(Message.__struct_fields__) == MESSAGE_FIELDS
assert ScheduledMessage.__struct_fields__[MESSAGE_FIELDS:] == ("due_at_us",)
# Behind the text of an acceptance stands what is of attempts alone.
assert ActivityRow.__struct_fields__[ROW_FIELDS:] == ("text", "receipts_by")
assert bundle_format.record(1, b"") == b"\0\1\0\0\0\0"


cdef struct Buffer:
    uint8_t *octets
    size_t size
    size_t room


cdef int _grow(Buffer *buffer, size_t more) except -1:
    """Make room for so many octets more."""
    cdef size_t room = 2 * (buffer.size + more)
    cdef uint8_t *octets = <uint8_t *>PyMem_RawRealloc(buffer.octets, room)
    if octets == NULL:
        raise MemoryError
    buffer.octets, buffer.room = octets, room
    return 0


cdef inline int _put(Buffer *buffer, const void *octets, size_t size) except -1:
    if buffer.room - buffer.size < size:
        _grow(buffer, size)
    memcpy(buffer.octets + buffer.size, octets, size)
    buffer.size += size
    return 0


cdef inline int _put_number(Buffer *buffer, uint64_t value) except -1:
    """A positive number, in the shortest form."""
    cdef uint8_t[9] packed
    cdef int width = 0, i
    if value < 0x80:
        packed[0] = <uint8_t>value
    else:
        width = 1 if value <= 0xff else 2 if value <= 0xffff else 4 if value <= 0xffffffff else 8
        packed[0] = 0xcc if width == 1 else 0xcd if width == 2 else 0xce if width == 4 else 0xcf
        for i in range(width):
            packed[width - i] = <uint8_t>(value >> 8 * i)
    return _put(buffer, packed, width + 1)


cdef inline int _put_text(Buffer *buffer, str text) except -1:
    cdef Py_ssize_t size = 0
    cdef const char *octets = PyUnicode_AsUTF8AndSize(text, &size)
    cdef uint8_t[5] head
    cdef int width, i
    if size < 32:
        width = 0
        head[0] = <uint8_t>(0xa0 | size)
    else:
        width = 1 if size <= 0xff else 2 if size <= 0xffff else 4
        head[0] = 0xd9 if width == 1 else 0xda if width == 2 else 0xdb
        for i in range(width):
            head[width - i] = <uint8_t>(size >> 8 * i)
    _put(buffer, head, width + 1)
    return _put(buffer, octets, size)


cdef inline int _put_octets(Buffer *buffer, bytes octets) except -1:
    return _put(buffer, PyBytes_AS_STRING(octets), PyBytes_GET_SIZE(octets))


cdef bytes _taken(Buffer *buffer):
    """What is in it; it is empty then."""
    cdef bytes octets = PyBytes_FromStringAndSize(<char *>buffer.octets, buffer.size)
    buffer.size = 0
    return octets


cdef class _Piece:
    """Messages of one queue that fit into one bundle."""

    cdef bytes _queue
    cdef Buffer _records
    cdef int count
    # Of the messages alone.
    cdef size_t _octets
    # Of each run of messages: the organisation, messages, segments, octets with the headers.
    cdef list _index
    cdef long long _organisation_id
    cdef int _own, _segments
    cdef size_t _run

    def __cinit__(self, bytes queue):
        self._queue = queue
        self._index = []

    def __dealloc__(self):
        PyMem_RawFree(self._records.octets)

    cdef bint has_room(self, size_t size):
        return not self.count or (self.count < _messages_max and self._octets + size <= _octets_max)

    cdef int add(self, long long organisation_id, int segments, const uint8_t *payload, size_t size) except -1:
        cdef uint8_t[HEADER] header
        header[0], header[1] = <uint8_t>(segments >> 8), <uint8_t>segments
        header[2], header[3] = <uint8_t>(size >> 24), <uint8_t>(size >> 16)
        header[4], header[5] = <uint8_t>(size >> 8), <uint8_t>size
        _put(&self._records, header, HEADER)
        _put(&self._records, payload, size)
        size += HEADER
        if self._own and (
            self._organisation_id != organisation_id
            or (self._run + size > RUN_MOST if self._own % TURN else self._run + TURN * size > RUN)
        ):
            self._end_run()
        self._organisation_id = organisation_id
        self._own += 1
        self._segments += segments
        self._run += size
        self.count += 1
        self._octets += size - HEADER
        return 0

    cdef int _end_run(self) except -1:
        if self._own:
            self._index += (str(self._organisation_id), self._own, self._segments, self._run)
            self._own, self._segments, self._run = 0, 0, 0
        return 0

    cdef int end(self, list pieces) except -1:
        """Append what is here to the arguments of pieces, and begin anew."""
        if not self.count:
            return 0
        self._end_run()
        pieces += (self._queue, self.count, _encode(self._index), _taken(&self._records))
        self._index = []
        self.count, self._octets = 0, 0
        return 0


cdef class Portion:
    """What is let in together or not at all."""

    cdef int _index
    cdef bytes _kept
    cdef bint _texts
    # By organisation.
    cdef dict _units
    cdef Buffer _rows, _payload
    cdef int _count
    cdef list _pieces, _dues
    cdef _Piece _express, _normal

    def __cinit__(self, int index, bytes kept, bint texts):
        self._index = index
        self._kept = kept
        self._texts = texts
        self._units = {}
        self._pieces = []
        self._dues = []
        self._express = _Piece(b"e")
        self._normal = _Piece(b"n")

    def __dealloc__(self):
        PyMem_RawFree(self._rows.octets)
        PyMem_RawFree(self._payload.octets)

    def add(self, submission):
        organisation_id = submission.organisation_id
        cdef long long id_ = organisation_id
        cdef _Piece piece
        cdef int segments
        self._units[organisation_id] = self._units.get(organisation_id, 0) + submission.units
        for addressed in submission.messages:
            message = addressed.message
            due_at_us = addressed.due_at_us
            queue = addressed.queue
            segments = message.segments
            self._write(message, queue, due_at_us)
            self._count += 1
            is_express = queue == _express
            if due_at_us:
                self._dues += (b"e" if is_express else b"n", due_at_us, _taken(&self._payload))
                continue
            piece = self._express if is_express else self._normal
            if not piece.has_room(self._payload.size):
                piece.end(self._pieces)
            piece.add(id_, segments, self._payload.octets, self._payload.size)
            self._payload.size = 0

    def arguments(self):
        self._express.end(self._pieces)
        self._normal.end(self._pieces)
        units = [value for pair in self._units.items() for value in pair]
        return [
            self._index,
            self._kept,
            _encode(units),
            self._count,
            _taken(&self._rows),
            len(self._pieces) // 4,
            len(self._dues) // 3,
            *self._pieces,
            *self._dues,
        ]

    cdef int _write(self, message, str queue, uint64_t due_at_us) except -1:
        """Append the row of a message, and put the message into `_payload`."""
        cdef Buffer *row = &self._rows, *payload = &self._payload
        cdef str id_ = message.id, to = message.to, text = message.text, sender = message.sender
        cdef str encoding = message.encoding, reference = message.reference, url = message.callback_url
        cdef uint64_t organisation_id = message.organisation_id, segments = message.segments
        cdef uint64_t units = message.units, accepted_us = message.accepted_at_us
        cdef uint64_t expires_us = message.expires_at_us
        _put(row, b"\xdc\0\x18" if self._texts else b"\xdc\0\x17", 3)
        _put_number(row, accepted_us)
        _put_number(row, organisation_id)
        _put_text(row, id_)
        _put_number(row, accepted_us)
        _put_text(row, "scheduled" if due_at_us else "accepted")
        _put_text(row, queue)
        _put_text(row, to)
        _put_text(row, sender)
        _put_text(row, encoding)
        _put_number(row, segments)
        _put_number(row, units)
        # No attempt, provider, id of a provider, code, latency.
        _put(row, b"\0\xa0\xa0\xa0\0", 5)
        _put_text(row, reference)
        _put_number(row, due_at_us)
        _put_number(row, expires_us)
        # No unknown outcome, segment that arrived, message that is kept.
        _put(row, b"\xc2\0\xa0", 3)
        _put_text(row, url)
        if self._texts:
            _put_text(row, text)
        if type(message) is not Message:
            return _put_octets(payload, message_format.packed(message))
        _put(payload, b"\xdc\0\x10" if due_at_us else b"\x9f", 3 if due_at_us else 1)
        _put_text(payload, id_)
        _put_number(payload, organisation_id)
        _put_text(payload, to)
        _put_text(payload, text)
        _put_text(payload, sender)
        _put_text(payload, encoding)
        _put_number(payload, segments)
        _put_number(payload, units)
        _put_number(payload, accepted_us)
        _put_number(payload, expires_us)
        _put_number(payload, message.attempts)
        _put_text(payload, reference)
        _put_octets(payload, _encode(message.tried))
        _put_number(payload, message.unknown_sends)
        _put_text(payload, url)
        return _put_number(payload, due_at_us) if due_at_us else 0
