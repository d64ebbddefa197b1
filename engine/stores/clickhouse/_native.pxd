"""Columns of an answer in the format Native, read where they lie in it; inlined into `_report_sums.pyx`.

An answer is blocks, each of how many columns and rows it has, and of the columns: name, type, values. A
column is checked to its end as a whole, and then gives a value after the other.

    Native   https://clickhouse.com/docs/interfaces/formats/Native
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int16_t, int32_t, int64_t, int8_t, uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy

# How a value is written. WORDS: as a number that stands for a text, which stands before them.
cdef enum:
    TEXT = 0
    UNSIGNED = 1
    SIGNED = 2
    MAP = 3
    WORDS = 4


cdef struct Column:
    int role
    int kind
    int width
    # Of `counted0` and so on: which. Of `off0` and so on: the group.
    int place
    # The next value; of a map where it ends in the column, where keys and values begin, and where the
    # last two ended.
    const uint8_t *at
    const uint8_t *keys
    const uint8_t *values
    uint64_t before
    uint64_t read
    # How many keys there are.
    uint64_t entries
    # The texts that numbers stand for, and how many they are.
    const uint8_t **words
    uint64_t words_count


cdef inline const uint8_t *length(const uint8_t *at, const uint8_t *end, uint64_t *value) noexcept nogil:
    """Read a LEB128 number; where it ends, NULL when it does not."""
    cdef int shift = 0
    value[0] = 0
    while at < end and shift < 63:
        value[0] |= <uint64_t>(at[0] & 0x7f) << shift
        if at[0] < 0x80:
            return at + 1
        at += 1
        shift += 7
    return NULL


cdef inline uint64_t unsigned(const uint8_t *at, int width) noexcept nogil:
    """A number of this machine's order, which has to be little-endian, as for `_columns`."""
    cdef uint64_t value = 0
    # Of a width that is known the compiler makes one instruction.
    if width == 8:
        memcpy(&value, at, 8)
    elif width == 4:
        memcpy(&value, at, 4)
    elif width == 2:
        memcpy(&value, at, 2)
    else:
        value = at[0]
    return value


cdef inline object signed(const uint8_t *at, int width):
    if width == 8:
        return <int64_t>unsigned(at, 8)
    if width == 4:
        return <int32_t>unsigned(at, 4)
    return <int16_t>unsigned(at, 2) if width == 2 else <int8_t>at[0]


cdef inline const uint8_t *text_of(const uint8_t *at, const uint8_t *end, uint64_t *size) except NULL:
    """Where the octets of a text begin, and how many there are. Raises ValueError when the answer ends
    before."""
    at = length(at, end, size)
    if at == NULL or size[0] > <uint64_t>(end - at):
        raise ValueError("The answer broke off.")
    return at


cdef inline const uint8_t *past(const uint8_t *at, const uint8_t *end, uint64_t count, int width) except NULL:
    """Where so many values of a width end. Raises ValueError when the answer ends before."""
    # No answer has as many octets as would let the product wrap.
    if count > <uint64_t>(end - at) or count * width > <uint64_t>(end - at):
        raise ValueError("The answer broke off.")
    return at + count * width


cdef inline const uint8_t *next_text(Column *column, const uint8_t *end, uint64_t *size) except NULL:
    """The next text of a column, and how many octets it has."""
    cdef const uint8_t *text
    cdef uint64_t word
    if column.kind == WORDS:
        word = unsigned(column.at, column.width)
        column.at += column.width
        if word >= column.words_count:
            raise ValueError("The answer has texts of another kind.")
        return text_of(column.words[word], end, size)
    text = text_of(column.at, end, size)
    column.at = text + size[0]
    return text


cdef inline const uint8_t *words(
    Column *column, const uint8_t *at, const uint8_t *end, uint64_t rows, list kept
) except NULL:
    """Read which texts the numbers of a column stand for; where it ends. `kept`: as of `values`."""
    cdef uint64_t size = 0, i
    cdef const uint8_t *begin
    cdef bytes texts
    if rows == 0:
        return at
    # The version, how wide numbers are, and how many texts there are.
    begin = past(at, end, 3, 8)
    if unsigned(at, 8) != 1 or unsigned(at + 8, 8) & 0xff > 3 or unsigned(at + 8, 8) & 0x300 != 0x200:
        raise ValueError("The answer has texts of another kind.")
    column.width = 1 << (unsigned(at + 8, 8) & 0xff)
    column.words_count, at = unsigned(at + 16, 8), begin
    past(at, end, column.words_count, 1)
    texts = PyBytes_FromStringAndSize(NULL, column.words_count * sizeof(void *))
    kept.append(texts)
    column.words = <const uint8_t **>PyBytes_AS_STRING(texts)
    for i in range(column.words_count):
        column.words[i] = at
        begin = text_of(at, end, &size)
        at = begin + size
    begin = past(at, end, 1, 8)
    if unsigned(at, 8) != rows:
        raise ValueError("The answer has texts of another kind.")
    column.at = begin
    return past(begin, end, rows, column.width)


cdef inline str next_name(const uint8_t **at, const uint8_t *end):
    """A name or a type."""
    cdef uint64_t size = 0
    cdef const uint8_t *begin = text_of(at[0], end, &size)
    at[0] = begin + size
    return PyUnicode_DecodeUTF8(<const char *>begin, size, NULL)


cdef inline int set_kind(Column *column, str named) except -1:
    """Note how the values of a type are written; the width of one that is not known is -1."""
    cdef str kind = named
    if kind.startswith("SimpleAggregateFunction("):
        kind = kind.partition(", ")[2].removesuffix(")")
    column.kind, column.width = MAP, -1
    if kind == "String":
        column.kind, column.width = TEXT, 0
    elif kind == "LowCardinality(String)":
        column.kind, column.width = WORDS, 0
    elif kind == "Map(UInt16, UInt64)":
        column.width = 0
    elif kind in ("UInt8", "UInt16", "UInt32", "UInt64"):
        column.kind, column.width = UNSIGNED, int(kind.removeprefix("UInt")) // 8
    elif kind in ("Int8", "Int16", "Int32", "Int64"):
        column.kind, column.width = SIGNED, int(kind.removeprefix("Int")) // 8
    return 0


cdef inline const uint8_t *values(
    Column *column, const uint8_t *at, const uint8_t *end, uint64_t rows, list kept
) except NULL:
    """Begin with the values of a column; where it ends. `kept`: what the column points into."""
    cdef const uint8_t *begin
    cdef uint64_t size = 0, i
    column.at, column.before, column.read, column.entries = at, 0, 0, 0
    if column.kind == TEXT:
        for i in range(rows):
            begin = text_of(at, end, &size)
            at = begin + size
        return at
    if column.kind == WORDS:
        return words(column, at, end, rows, kept)
    if column.kind == MAP:
        column.keys = past(at, end, rows, 8)
        column.entries = size = unsigned(column.keys - 8, 8) if rows else 0
        column.values = past(column.keys, end, size, 2)
        return past(column.values, end, size, 8)
    return past(at, end, rows, column.width)
