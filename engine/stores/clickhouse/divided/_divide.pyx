"""Divides a block of rows: columns as ClickHouse's format Native has them in, those of each division out.

Theory. The division of a row follows from its organisation alone, as `engine.shards.shard_of` says. A column is
gone through once: a number is copied in its width, a string with its length in LEB128 before it. No Python
object is made for a row or a value.

    Native   https://clickhouse.com/docs/interfaces/formats/Native
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset

cdef enum:
    # As `engine.config.stores` has it: the size of an array must be known when this is compiled, and
    # tests/stores/clickhouse/divided/test_divide.py says that both are the same.
    DIVISIONS_MAX = 64

# As `engine.shards` has it.
cdef uint64_t MIX = 0x9E3779B97F4A7C15ULL


cdef inline Py_ssize_t text_width(const uint8_t *at, const uint8_t *end) noexcept nogil:
    """Octets of the string at `at` with its length; -1: it is cut off."""
    cdef uint64_t size = 0
    cdef int shift = 0
    cdef const uint8_t *begin = at
    while at < end and at[0] > 0x7f and shift < 56:
        size |= <uint64_t>(at[0] & 0x7f) << shift
        shift += 7
        at += 1
    if at >= end or at[0] > 0x7f:
        return -1
    size |= <uint64_t>at[0] << shift
    at += 1
    if size > <uint64_t>(end - at):
        return -1
    return at - begin + <Py_ssize_t>size


cdef int sizes_of(
    const uint8_t *at, const uint8_t *end, int width, const uint8_t *places, Py_ssize_t rows, Py_ssize_t *sizes
) noexcept nogil:
    """How many octets of a column each division gets; -1: the column has not so many rows."""
    cdef Py_ssize_t row, used
    memset(sizes, 0, DIVISIONS_MAX * sizeof(Py_ssize_t))
    for row in range(rows):
        used = width if width else text_width(at, end)
        if used < 0 or end - at < used:
            return -1
        sizes[places[row]] += used
        at += used
    return 0 if at == end else -1


cdef void copy(
    const uint8_t *at, const uint8_t *end, int width, const uint8_t *places, Py_ssize_t rows, uint8_t **to
) noexcept nogil:
    """Copy each value of a column to its division."""
    cdef Py_ssize_t row, used
    for row in range(rows):
        used = width if width else text_width(at, end)
        memcpy(to[places[row]], at, used)
        to[places[row]] += used
        at += used


cdef list divided(bytes column, int width, const uint8_t *places, Py_ssize_t rows, int divisions):
    """A column's values in each division. Raises ValueError when it has not so many rows."""
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(column)
    cdef const uint8_t *end = at + PyBytes_GET_SIZE(column)
    cdef Py_ssize_t[DIVISIONS_MAX] sizes
    cdef uint8_t *to[DIVISIONS_MAX]
    cdef int division
    cdef int wrong
    with nogil:
        wrong = sizes_of(at, end, width, places, rows, sizes)
    if wrong:
        raise ValueError("A column has another number of rows than the block.")
    found = []
    for division in range(divisions):
        part = PyBytes_FromStringAndSize(NULL, sizes[division])
        found.append(part)
        to[division] = <uint8_t *>PyBytes_AS_STRING(part)
    with nogil:
        copy(at, end, width, places, rows, to)
    return found


def divide(list columns, list widths, Py_ssize_t rows, int organisations, int divisions):
    cdef bytes of = columns[organisations]
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(of)
    cdef Py_ssize_t[DIVISIONS_MAX] counts
    cdef uint8_t *places
    cdef uint64_t organisation
    cdef Py_ssize_t row
    if not 0 < divisions <= DIVISIONS_MAX:
        raise ValueError(f"There are 1 to {DIVISIONS_MAX} divisions.")
    if widths[organisations] != 8 or PyBytes_GET_SIZE(of) != 8 * rows:
        raise ValueError("The column of organisations has another number of rows than the block.")
    memset(counts, 0, sizeof(counts))
    places = <uint8_t *>PyMem_RawMalloc(rows + 1)
    if places == NULL:
        raise MemoryError
    try:
        for row in range(rows):
            memcpy(&organisation, at + 8 * row, 8)
            places[row] = (organisation * MIX >> 32) % <uint64_t>divisions
            counts[places[row]] += 1
        parts = [
            divided(column, width, places, rows, divisions)
            for column, width in zip(columns, widths, strict=True)
        ]
    finally:
        PyMem_RawFree(places)
    return [
        (counts[division], [part[division] for part in parts]) for division in range(divisions)
    ]
