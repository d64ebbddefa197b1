"""What the statements of a report have found, added up for each group and event, with quantiles of times.

Theory. Times are counted in classes (`engine.stores.clickhouse.time_classes`), and the counts of a group come
as maps of a class and how many times are in it. A row is read once; its maps stay where they are in the
answer until the quantiles are wanted, and are then spread over one array with a place for each class. So no
Python object is made for a row of a group that is known, nor for a count. ClickHouse could say the quantiles
as well, but to plan that takes it as long as all the rest of most reports.

    RowBinary   https://clickhouse.com/docs/interfaces/formats/RowBinary
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_RawCalloc, PyMem_RawFree, PyMem_Realloc
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.math cimport exp2
from libc.stdint cimport int16_t, int32_t, int64_t, int8_t, uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy

cdef enum:
    # How a value is written.
    TEXT = 0
    UNSIGNED = 1
    SIGNED = 2
    MAP = 3
    # What a column says.
    GROUP = 0
    EVENTS = 1
    SEGMENTS = 2
    UNITS = 3
    ANSWERS = 4
    AGES = 5
    LOST = 6
    COUNTED = 7
    # Octets of a class and its count; and classes that there may be.
    ENTRY = 10
    CLASSES = 65536
    # Classes in an octave, as in `time_classes`.
    OCTAVE = 8
    PARTS = 3
    # After so many rows other threads have a turn.
    TURN = 512

cdef double[PARTS] QUANTILES = [0.5, 0.95, 0.99]

_NAMES = {
    "n": EVENTS, "parts": SEGMENTS, "held": UNITS, "of_answers": ANSWERS, "of_ages": AGES, "lost": LOST,
}
_TYPES = {
    "String": (TEXT, 0), "Map(UInt16, UInt64)": (MAP, 0),
    **{f"UInt{8 * width}": (UNSIGNED, width) for width in (1, 2, 4, 8)},
    **{f"Int{8 * width}": (SIGNED, width) for width in (1, 2, 4, 8)},
}


cdef struct Column:
    int role
    int kind
    int width
    # Of `counted0` and so on: which.
    int place


cdef class _Sum:
    """Of one group and event: how many, segments, units; and where its maps are."""

    cdef uint64_t events, segments, units
    cdef const uint8_t **maps[2]
    cdef int count[2]

    def __dealloc__(self):
        PyMem_Free(self.maps[0])
        PyMem_Free(self.maps[1])

    cdef int add_map(self, int which, const uint8_t *at) except -1:
        cdef int count = self.count[which]
        cdef const uint8_t **maps
        # Room for 1, 2, 4, 8 and so on.
        if count & (count - 1) == 0:
            maps = <const uint8_t **>PyMem_Realloc(self.maps[which], max(1, 2 * count) * sizeof(void *))
            if maps == NULL:
                raise MemoryError
            self.maps[which] = maps
        self.maps[which][count] = at
        self.count[which] = count + 1
        return 0


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
    memcpy(&value, at, width)
    return value


cdef object signed(const uint8_t *at, int width):
    if width == 8:
        return <int64_t>unsigned(at, 8)
    if width == 4:
        return <int32_t>unsigned(at, 4)
    return <int16_t>unsigned(at, 2) if width == 2 else <int8_t>at[0]


cdef const uint8_t *past(const Column *column, const uint8_t *at, const uint8_t *end) except NULL:
    """Where a value ends. Raises ValueError when the answer ends before."""
    cdef uint64_t size = column.width
    if column.kind == TEXT or column.kind == MAP:
        at = length(at, end, &size)
        if column.kind == MAP:
            if size > CLASSES:
                raise ValueError("The answer has more classes than there are.")
            size *= ENTRY
    if at == NULL or <int64_t>size > end - at:
        raise ValueError("The answer broke off.")
    return at + size


cdef class ReportSums:
    cdef readonly list counted
    cdef readonly bint lost
    # The answers, which the maps point into.
    cdef list _answers
    # By the values of a group and its event.
    cdef dict _sums
    cdef uint64_t *_classes

    def __cinit__(self):
        self.counted, self._answers, self._sums = [], [], {}
        self._classes = <uint64_t *>PyMem_RawCalloc(CLASSES, sizeof(uint64_t))
        if self._classes == NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_RawFree(self._classes)

    def add(self, bytes answer):
        cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(answer)
        cdef const uint8_t *end = at + PyBytes_GET_SIZE(answer)
        cdef const uint8_t *row
        cdef Column[32] columns
        cdef int width = 0, groups = 0, i
        cdef Py_ssize_t read = 0
        cdef dict known = {}
        cdef bytes key
        cdef _Sum found
        if not answer:
            return
        at = self._columns(at, end, columns, &width, &groups)
        self._answers.append(answer)
        while at < end:
            read += 1
            if read % TURN == 0:
                with nogil:
                    pass
            row = at
            for i in range(groups):
                at = past(&columns[i], at, end)
            key = PyBytes_FromStringAndSize(<const char *>row, at - row)
            if key in known:
                found = known[key]
            else:
                found = known[key] = self._of_group(columns, groups, row, end)
            for i in range(groups, width):
                row, at = at, past(&columns[i], at, end)
                self._add_value(&columns[i], found, row)

    cdef const uint8_t *_columns(
        self, const uint8_t *at, const uint8_t *end, Column *columns, int *width, int *groups
    ) except NULL:
        """Read what the columns are; where the rows begin."""
        cdef Column text = Column(GROUP, TEXT, 0, 0)
        cdef uint64_t count = 0
        cdef int i
        cdef list words = []
        cdef const uint8_t *begin
        at = length(at, end, &count)
        if at == NULL or not 0 < count <= 32:
            raise ValueError("The answer has no columns.")
        for i in range(2 * <int>count):
            begin, at = at, past(&text, at, end)
            words.append(self._text(begin, end))
        width[0] = count
        for i in range(<int>count):
            name, kind = words[i], words[count + i]
            if name.startswith("g"):
                groups[0] = i + 1
            columns[i].role = GROUP if name.startswith("g") else _NAMES.get(name, COUNTED)
            if kind.startswith("LowCardinality("):
                kind = kind.removeprefix("LowCardinality(").removesuffix(")")
            elif kind.startswith("SimpleAggregateFunction("):
                kind = kind.partition(", ")[2].removesuffix(")")
            columns[i].kind, columns[i].width = _TYPES.get(kind, (MAP, -1))
            is_map = columns[i].role == ANSWERS or columns[i].role == AGES
            if columns[i].width < 0 or is_map != (columns[i].kind == MAP):
                raise ValueError(f"The column {name} has the type {words[count + i]}.")
            if columns[i].role == COUNTED:
                columns[i].place = int(name.removeprefix("counted"))
                while len(self.counted) <= columns[i].place:
                    self.counted.append(0)
        return at

    cdef _Sum _of_group(self, const Column *columns, int groups, const uint8_t *at, const uint8_t *end):
        """The sum of a group and its event; None when it is no event, but says how far a series is counted."""
        cdef list values = []
        cdef int i
        for i in range(groups):
            if columns[i].kind == TEXT:
                values.append(self._text(at, end))
            elif columns[i].kind == UNSIGNED:
                values.append(unsigned(at, columns[i].width))
            else:
                values.append(signed(at, columns[i].width))
            at = past(&columns[i], at, end)
        if not values[groups - 1]:
            return None
        group = tuple(values)
        found = self._sums.get(group)
        if found is None:
            found = self._sums[group] = _Sum()
        return found

    cdef str _text(self, const uint8_t *at, const uint8_t *end):
        cdef uint64_t size = 0
        at = length(at, end, &size)
        return PyUnicode_DecodeUTF8(<const char *>at, size, NULL)

    cdef int _add_value(self, const Column *column, _Sum found, const uint8_t *at) except -1:
        cdef uint64_t value
        if column.role == ANSWERS or column.role == AGES:
            # One without an entry is a single zero.
            if at[0] and found is not None:
                found.add_map(column.role - ANSWERS, at)
            return 0
        value = unsigned(at, column.width)
        if column.role == COUNTED:
            if value > <uint64_t>self.counted[column.place]:
                self.counted[column.place] = value
        elif column.role == LOST:
            self.lost = self.lost or value
        elif found is None:
            pass
        elif column.role == EVENTS:
            found.events += value
        elif column.role == SEGMENTS:
            found.segments += value
        else:
            found.units += value
        return 0

    def rows(self):
        cdef _Sum found
        cdef list rows = []
        for group, found in self._sums.items():
            rows.append(
                (*group, found.events, found.segments, found.units, self._quantiles(found, 0),
                    self._quantiles(found, 1))
            )
            if len(rows) % TURN == 0:
                with nogil:
                    pass
        return rows

    cdef tuple _quantiles(self, _Sum found, int which):
        """Those of all maps together; () when they are empty."""
        cdef uint64_t *classes = self._classes
        cdef uint64_t size = 0, count, total = 0, below = 0
        cdef int i, place, low = CLASSES, high = -1, reached = 0
        cdef const uint8_t *at
        cdef double wanted
        cdef double[PARTS] result
        for i in range(found.count[which]):
            # The maps were read to their ends before.
            at = length(found.maps[which][i], found.maps[which][i] + 10, &size)
            while size:
                place, count = <int>unsigned(at, 2), unsigned(at + 2, 8)
                classes[place] += count
                total += count
                low, high = min(low, place), max(high, place)
                at += ENTRY
                size -= 1
        for place in range(low, high + 1):
            count, classes[place] = classes[place], 0
            below += count
            while count and reached < PARTS and below >= QUANTILES[reached] * total:
                # Within a class the logarithms of times are spread evenly.
                wanted = QUANTILES[reached] * total
                result[reached] = exp2((place + 1 - (below - wanted) / count) / OCTAVE)
                reached += 1
        return (result[0], result[1], result[2]) if reached == PARTS else ()
