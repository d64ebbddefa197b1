"""Rows of activity as columns: entries of the streams in, the values of each column out, packed.

Theory. An entry is a MessagePack array32 of rows, each an array of the fields of `ActivityRow` in order. Each
value is read once, checked against its column, and appended to that column's buffer as ClickHouse's format
Native has it: numbers little-endian in their width, a bool as a byte, a string as the length of its UTF-8 in
LEB128 and its octets. No Python object is made for a row or a value, but for the rare `kept`.

Only what the engine itself writes is read here: positive numbers, `str`, `bool`, rows of the fields that this
version has, or without some of the last ones, whose default is 0, false or "". An entry with anything else is
refused as a whole; the caller (`engine.activity.blocks`) then decides what it is.

    MessagePack   https://github.com/msgpack/msgpack/blob/master/spec.md
    Native        https://clickhouse.com/docs/interfaces/formats/Native
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

# What a column holds.
cdef enum:
    TEXT = 0
    BOOL = 1
    UINT16 = 2
    UINT32 = 4
    INT64 = 8
    # A positive number of 64 bits that is a time, in microseconds: below 2**62.
    TIME = 9

# Fields of a row, as many of them as the oldest rows have, and columns: without `kept`, with the place.
cdef enum:
    FIELDS = 25
    FIELDS_MIN = 11
    COLUMNS = 27
    KEPT = 21
    TO = 6
    MESSAGE_ID = 2
    ATTEMPT = 11

cdef uint8_t[FIELDS] KINDS = [
    TIME, INT64, TEXT, TIME, TEXT, TEXT, TEXT, TEXT, TEXT, UINT16, UINT32,
    UINT16, TEXT, TEXT, TEXT, UINT32, TEXT, TIME, TIME, BOOL, UINT16, TEXT, TEXT,
    TEXT, UINT16,
]


cdef struct Column:
    uint8_t *octets
    size_t size
    size_t room


cdef inline uint64_t big_endian(const uint8_t *at, int width) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(width):
        value = value << 8 | at[i]
    return value


cdef inline const uint8_t *number(const uint8_t *at, const uint8_t *end, uint64_t *value) noexcept nogil:
    """Read a positive number; where it ends, NULL when there is none."""
    cdef int width
    if at >= end:
        return NULL
    if at[0] < 0x80:
        value[0] = at[0]
        return at + 1
    if not 0xcc <= at[0] <= 0xcf:
        return NULL
    width = 1 << (at[0] - 0xcc)
    if end - at <= width:
        return NULL
    value[0] = big_endian(at + 1, width)
    return at + 1 + width


cdef inline const uint8_t *text(const uint8_t *at, const uint8_t *end, size_t *size) noexcept nogil:
    """Read the head of a string; where its octets begin, NULL when there is none or it is cut off."""
    cdef int width
    if at >= end:
        return NULL
    if 0xa0 <= at[0] <= 0xbf:
        size[0] = at[0] & 31
        at += 1
    elif 0xd9 <= at[0] <= 0xdb:
        width = 1 << (at[0] - 0xd9)
        if end - at <= width:
            return NULL
        size[0] = big_endian(at + 1, width)
        at += 1 + width
    else:
        return NULL
    return at if <size_t>(end - at) >= size[0] else NULL


cdef inline int width_of(int field) noexcept nogil:
    """Octets of a number of this field; of a string, those of an empty one."""
    cdef int kind = KINDS[field]
    return 1 if kind <= BOOL else 8 if kind == TIME else kind


cdef inline int column_of(int field) noexcept nogil:
    """The column of a field: those behind `kept`, which has none, move up by one."""
    return field if field < KEPT else field - 1


cdef inline bint is_ascii(const uint8_t *at, size_t size) noexcept nogil:
    cdef uint64_t word, high = 0
    cdef size_t i = 0
    while i + 8 <= size:
        memcpy(&word, at + i, 8)
        high |= word
        i += 8
    while i < size:
        high |= <uint64_t>at[i] << 56
        i += 1
    return not high & 0x8080808080808080ULL


cdef class ColumnBuilder:
    """Appends rows to columns; `take` gives the columns. For one thread at a time."""

    cdef Column[COLUMNS] columns
    cdef readonly size_t rows
    # (message id, attempt, `kept`) of each row that has one.
    cdef readonly list kept
    # Of the row that is being read; the id lies in its entry.
    cdef const uint8_t *message_id
    cdef size_t message_id_size
    cdef uint64_t attempt
    # What is stored for a recipient's number; None: the number.
    cdef object stored

    def __cinit__(self, stored=None):
        self.stored = stored
        memset(self.columns, 0, sizeof(self.columns))
        self.rows = 0
        self.kept = []
        self.message_id, self.message_id_size, self.attempt = NULL, 0, 0

    def __dealloc__(self):
        cdef int i
        for i in range(COLUMNS):
            PyMem_RawFree(self.columns[i].octets)

    def add(self, bytes entry, uint16_t shard, uint64_t ms, uint32_t sequence):
        """Append the rows of an entry; how many. -1: it is not plain, and nothing was appended."""
        cdef size_t[COLUMNS] sizes
        cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(entry)
        cdef const uint8_t *end = at + PyBytes_GET_SIZE(entry)
        cdef size_t count, row, kept = len(self.kept)
        cdef int i
        if end - at < 5 or at[0] != 0xdd:
            return -1
        count = big_endian(at + 1, 4)
        at += 5
        # A row takes more octets than it has fields, so a count that lies makes no room.
        if <size_t>(end - at) / FIELDS_MIN < count:
            return -1
        for i in range(COLUMNS):
            sizes[i] = self.columns[i].size
        try:
            for row in range(count):
                at = self.add_row(at, end)
                if at == NULL:
                    break
            if at == end:
                self.repeat(COLUMNS - 3, shard, 2, count)
                self.repeat(COLUMNS - 2, ms, 8, count)
                self.repeat(COLUMNS - 1, sequence, 4, count)
                self.rows += count
                return count
        except UnicodeDecodeError:
            pass
        for i in range(COLUMNS):
            self.columns[i].size = sizes[i]
        del self.kept[kept:]
        return -1

    def take(self):
        """The values of each column, packed. The builder is empty then, and forgets `kept`."""
        cdef int i
        found = [
            PyBytes_FromStringAndSize(<char *>self.columns[i].octets, self.columns[i].size)
            for i in range(COLUMNS)
        ]
        for i in range(COLUMNS):
            self.columns[i].size = 0
        self.rows = 0
        self.kept = []
        return found

    cdef const uint8_t *add_row(self, const uint8_t *at, const uint8_t *end) except? NULL:
        """Append one row; where it ends, NULL when it is not plain."""
        cdef size_t fields
        cdef int field
        if at >= end:
            return NULL
        if 0x90 <= at[0] <= 0x9f:
            fields = at[0] & 15
            at += 1
        elif at[0] == 0xdc and end - at > 3:
            fields = big_endian(at + 1, 2)
            at += 3
        else:
            return NULL
        if not FIELDS_MIN <= fields <= FIELDS:
            return NULL
        for field in range(<int>fields):
            at = self.add_text(field, at, end) if KINDS[field] == TEXT else self.add_number(field, at, end)
            if at == NULL:
                return NULL
        for field in range(<int>fields, FIELDS):
            if field != KEPT:
                self.put(column_of(field), 0, width_of(field))
        return at

    cdef inline const uint8_t *add_text(
        self, int field, const uint8_t *at, const uint8_t *end
    ) except? NULL:
        """Append the string at `at`, or keep it beside the columns; where it ends, NULL when it is none."""
        cdef size_t size
        at = text(at, end, &size)
        if at == NULL:
            return NULL
        if not is_ascii(at, size):
            PyUnicode_DecodeUTF8(<char *>at, size, NULL)
        if field == MESSAGE_ID:
            self.message_id, self.message_id_size = at, size
        if field == TO and self.stored is not None:
            self.put_bytes(TO, self.stored(<bytes>at[:size]))
        elif field != KEPT:
            self.put_text(column_of(field), at, size)
        elif size:
            message_id = self.message_id[:self.message_id_size].decode()
            self.kept.append((message_id, self.attempt, at[:size].decode()))
        return at + size

    cdef inline const uint8_t *add_number(
        self, int field, const uint8_t *at, const uint8_t *end
    ) except? NULL:
        """Append the number or the bool at `at`; where it ends, NULL when it is none that fits."""
        cdef uint64_t value
        cdef int kind = KINDS[field]
        if kind == BOOL:
            if at >= end or not 0xc2 <= at[0] <= 0xc3:
                return NULL
            value = at[0] - 0xc2
            at += 1
        else:
            at = number(at, end, &value)
            if at == NULL:
                return NULL
            if kind == TIME:
                if value > <uint64_t>1 << 62:
                    return NULL
            elif value >> (63 if kind == INT64 else 8 * kind):
                return NULL
        self.put(column_of(field), value, width_of(field))
        if field == ATTEMPT:
            self.attempt = value
        return at

    cdef inline uint8_t *room(self, int column, size_t more) except NULL:
        """Where `more` octets may be written; they count as written."""
        cdef Column *of = &self.columns[column]
        cdef size_t room
        cdef void *moved
        if of.size + more > of.room:
            room = max(of.room * 2, of.size + more, 4096)
            moved = PyMem_RawRealloc(of.octets, room)
            if moved == NULL:
                raise MemoryError
            of.octets, of.room = <uint8_t *>moved, room
        of.size += more
        return of.octets + of.size - more

    cdef inline int put(self, int column, uint64_t value, int width) except -1:
        """Append a number, little-endian."""
        cdef uint8_t *at = self.room(column, width)
        cdef int i
        for i in range(width):
            at[i] = value >> 8 * i & 0xff
        return 0

    cdef inline int put_text(self, int column, const uint8_t *octets, size_t size) except -1:
        """Append a string with its length."""
        cdef uint8_t *at = self.room(column, size + 1 + (size > 0x7f) + (size > 0x3fff)
                                     + (size > 0x1fffff) + (size > 0xfffffff))
        cdef size_t left = size
        while left > 0x7f:
            at[0] = left & 0x7f | 0x80
            left >>= 7
            at += 1
        at[0] = left
        memcpy(at + 1, octets, size)
        return 0

    cdef int put_bytes(self, int column, bytes octets) except -1:
        """Append a string that Python made, with its length."""
        return self.put_text(column, <const uint8_t *>PyBytes_AS_STRING(octets), PyBytes_GET_SIZE(octets))

    cdef int repeat(self, int column, uint64_t value, int width, size_t count) except -1:
        """Append a number `count` times."""
        cdef size_t i
        for i in range(count):
            self.put(column, value, width)
        return 0
