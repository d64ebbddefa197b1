"""What the statements of a report have found, added up for each group and event, with quantiles of times.

Theory. Times are counted in classes (`engine.stores.clickhouse.time_classes`), and the counts of a group come
as maps of a class and how many times are in it. A column is read where it is in the answer, which is kept; so
are the maps of a count, until the quantiles are wanted, and then they are spread over one array with a place
for each class. A Python object is made for a group, and none for a count, nor for its numbers. ClickHouse
could say the quantiles as well, but to plan that takes it as long as all the rest of most reports; and it
adds up maps at a tenth of the speed.

A count may be taken off a group as it is added to another (`off0` and so on): sums are numbers without a
sign, whose differences are right in the end.

    Native   https://clickhouse.com/docs/interfaces/formats/Native
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawRealloc
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcmp, memcpy, memset

from engine.stores.clickhouse._block cimport ANSWERS, COLUMNS, COUNTED, EVENTS, LOST, OFF, block
from engine.stores.clickhouse._native cimport (
    MAP, TEXT, UNSIGNED, WORDS, Column, length, next_text, signed, unsigned,
)
from engine.stores.clickhouse._pieces cimport CLASSES, PARTS, Piece, quantiles

from engine.activity.reports import SUMMED, TIMED, Sums

cdef enum:
    MEASURES = 3
    EVENTS_MAX = 32
    # A group's values take so many octets at most to be told from others.
    KEY = 4096
    # After so many rows other threads have a turn.
    TURN = 512

# As many groups as there are.
cdef Py_ssize_t ANY_NUMBER = 0x7fffffffffffffff

# A time that is none: to add to no group, or to take off none.
cdef uint64_t NOWHERE = 0xffffffff

cdef int KINDS = len(SUMMED), SERIES = len(TIMED)

cdef list _EVENTS = [event.encode() for event in SUMMED]


cdef struct Known:
    # Of a group: its values as the answer has them, and how many octets they are; -1: not in this answer yet.
    # And the place of the group that came after it.
    const uint8_t *key
    Py_ssize_t used
    Py_ssize_t after


cdef int kind_of(const uint8_t *text, uint64_t size) except -1:
    """The place of an event in `SUMMED`. Raises ValueError for one that is not counted."""
    cdef Py_ssize_t i
    for i in range(KINDS):
        event = <bytes>_EVENTS[i]
        if <uint64_t>PyBytes_GET_SIZE(event) == size and not memcmp(PyBytes_AS_STRING(event), text, size):
            return i
    raise ValueError("The answer has an event that is not counted.")


class TooManyGroups(Exception):
    pass


cdef class ReportSums:
    cdef readonly list counted
    cdef readonly bint lost
    # An answer was refused, or is being read: what is here is half of something, and may point anywhere.
    cdef bint _is_broken
    cdef Py_ssize_t _groups_max
    # The answers, which the maps point into.
    cdef list _answers
    # The groups in the order in which they came, and the place of each.
    cdef list _groups
    cdef dict _places
    # By group and event: how many, segments, units.
    cdef uint64_t *_numbers
    # By group, and which times of it: the last map.
    cdef int64_t *_last
    cdef Known *_known
    cdef Py_ssize_t _room
    cdef Piece *_pieces
    cdef int64_t _count, _pieces_room
    # By event: the place of its times of answers, and of ages; -1: they are not shown.
    cdef int[EVENTS_MAX][2] _timed
    cdef uint64_t *_classes

    def __cinit__(self, Py_ssize_t groups_max=ANY_NUMBER):
        cdef int i
        assert KINDS <= EVENTS_MAX
        self._groups_max = groups_max
        self.counted, self._answers, self._groups, self._places = [], [], [], {}
        for i in range(EVENTS_MAX):
            self._timed[i][0] = self._timed[i][1] = -1
        for i, (event, of) in enumerate(TIMED):
            self._timed[SUMMED.index(event)][0 if of == "answer_us" else 1] = i
        self._classes = <uint64_t *>PyMem_RawCalloc(CLASSES, sizeof(uint64_t))
        if self._classes == NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_RawFree(self._classes)
        PyMem_RawFree(self._numbers)
        PyMem_RawFree(self._last)
        PyMem_RawFree(self._known)
        PyMem_RawFree(self._pieces)

    def add(self, bytes answer):
        cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(answer)
        cdef const uint8_t *end = at + PyBytes_GET_SIZE(answer)
        cdef Column[COLUMNS] columns
        cdef uint64_t width = 0, rows = 0
        cdef int groups = 0
        cdef Py_ssize_t place
        cdef dict known = {}
        cdef list types = []
        self._check()
        self._is_broken = True
        self._answers.append(answer)
        # Another answer may have other types.
        for place in range(self._room):
            self._known[place].used = self._known[place].after = -1
        while at < end:
            at = length(at, end, &width)
            if at == NULL or not 0 < width <= COLUMNS:
                raise ValueError("The answer has no columns.")
            at = length(at, end, &rows)
            if at == NULL:
                raise ValueError("The answer broke off.")
            at = block(at, end, columns, width, rows, &groups, types, self.counted, self._answers)
            self._rows(columns, width, rows, groups, end, known)
        self._is_broken = False

    cdef int _check(self) except -1:
        if self._is_broken:
            raise ValueError("An answer was not read to its end.")
        return 0

    cdef int _rows(
        self, Column *columns, int width, uint64_t rows, int groups, const uint8_t *end, dict known
    ) except -1:
        """Add the rows of a block. `known`: the places of groups by their values as the answer has them."""
        cdef uint8_t[KEY] key
        cdef const uint8_t *text
        cdef uint64_t size = 0, row
        cdef Py_ssize_t used, place = -1, off_at = -1
        cdef int i, kind = -1
        cdef Column *off = NULL
        for i in range(groups, width):
            if columns[i].role == OFF:
                off = &columns[i]
        for row in range(rows):
            if row % TURN == TURN - 1:
                with nogil:
                    pass
            used = self._key(columns, groups - 1, end, key, off, &off_at)
            text = next_text(&columns[groups - 1], end, &size)
            # Without an event it says how far a series is counted.
            kind = kind_of(text, size) if size else -1
            if kind < 0 or off != NULL and unsigned(key + off_at, 4) == NOWHERE:
                self._measures(columns, groups, width, -1, kind, False)
            else:
                place = self._next(place, columns, groups - 1, key, used, known)
                self._measures(columns, groups, width, place, kind, False)
            if off != NULL:
                if kind >= 0 and unsigned(off.at, 4) != NOWHERE:
                    memcpy(key + off_at, off.at, 4)
                    self._measures(
                        columns, groups, width, self._place(columns, groups - 1, key, used, known), kind, True
                    )
                off.at += 4
        return 0

    cdef Py_ssize_t _key(
        self, Column *columns, int groups, const uint8_t *end, uint8_t *key, Column *off, Py_ssize_t *off_at
    ) except -1:
        """Copy the next value of each group to `key`; how many octets. `off_at`: where `off` has another."""
        cdef Column *column
        cdef const uint8_t *text
        cdef uint64_t size = 0
        cdef Py_ssize_t used = 0
        cdef int i
        for i in range(groups):
            column = &columns[i]
            if column.kind == TEXT or column.kind == WORDS:
                text = next_text(column, end, &size)
                # And all numbers beside it.
                if size > KEY or used + <Py_ssize_t>size + 4 > KEY - 8 * COLUMNS:
                    raise ValueError("The answer has a group with a long name.")
                # With its length, so that no two groups look alike.
                memcpy(key + used, &size, 4)
                memcpy(key + used + 4, text, size)
                used += 4 + size
                continue
            if off != NULL and off.place == i:
                off_at[0] = used
            memcpy(key + used, column.at, column.width)
            used += column.width
            column.at += column.width
        return used

    cdef int _measures(
        self, Column *columns, int groups, int width, Py_ssize_t place, int kind, bint taken
    ) except -1:
        """Add the numbers of a row to a group; -1: to none. `taken`: take them off, once more."""
        cdef uint64_t value, size, before
        cdef Column *column
        cdef int i, octets
        cdef uint64_t *sums = &self._numbers[(place * KINDS + kind) * MEASURES] if place >= 0 else NULL
        for i in range(groups, width):
            column = &columns[i]
            if column.role == OFF:
                continue
            octets = 8 if column.kind == MAP else column.width
            if taken:
                column.at -= octets
            value = unsigned(column.at, octets)
            column.at += octets
            if column.kind == MAP:
                if not taken:
                    column.before, column.read = column.read, value
                before = column.before
                size = value - before
                if size > CLASSES or value > column.entries:
                    raise ValueError("The answer has more classes than there are.")
                if place >= 0 and size and self._timed[kind][column.role - ANSWERS] >= 0:
                    self._add_map(
                        place * SERIES + self._timed[kind][column.role - ANSWERS],
                        column.keys + 2 * before, column.values + 8 * before, size, taken,
                    )
            elif column.role == COUNTED:
                if value > <uint64_t>self.counted[column.place]:
                    self.counted[column.place] = value
            elif column.role == LOST:
                self.lost = self.lost or value
            elif sums != NULL:
                sums[column.role - EVENTS] += -value if taken else value
        return 0

    cdef Py_ssize_t _next(
        self, Py_ssize_t before, const Column *columns, int groups, const uint8_t *key, Py_ssize_t used,
        dict known
    ) except -1:
        """As `_place`, of the group of a row that comes after one of the group at `before`; -1: it is the
        first. The events of a group mostly stand beside each other, and groups in the same order again."""
        cdef Py_ssize_t place = before
        if before >= 0:
            if self._known[place].used != used or memcmp(self._known[place].key, key, used):
                place = self._known[before].after
        if place >= 0 and self._known[place].used == used and not memcmp(self._known[place].key, key, used):
            return place
        place = self._place(columns, groups, key, used, known)
        if before >= 0:
            self._known[before].after = place
        return place

    cdef Py_ssize_t _place(
        self, const Column *columns, int groups, const uint8_t *key, Py_ssize_t used, dict known
    ) except -1:
        """The place of a group by its values as the answer has them."""
        cdef bytes name = PyBytes_FromStringAndSize(<const char *>key, used)
        cdef Py_ssize_t place
        found = known.get(name)
        if found is not None:
            return found
        place = known[name] = self._place_of(columns, groups, key)
        self._known[place].key, self._known[place].used = <const uint8_t *>PyBytes_AS_STRING(name), used
        return place

    cdef Py_ssize_t _place_of(self, const Column *columns, int groups, const uint8_t *key) except -1:
        """The place of a group with these values."""
        cdef list values = []
        cdef uint32_t size = 0
        cdef Py_ssize_t place
        cdef int i
        for i in range(groups):
            if columns[i].kind == TEXT or columns[i].kind == WORDS:
                memcpy(&size, key, 4)
                values.append(PyUnicode_DecodeUTF8(<const char *>key + 4, size, NULL))
                key += 4 + size
                continue
            if columns[i].kind == UNSIGNED:
                values.append(unsigned(key, columns[i].width))
            else:
                values.append(signed(key, columns[i].width))
            key += columns[i].width
        group = tuple(values)
        found = self._places.get(group)
        if found is not None:
            return found
        place = len(self._groups)
        if place >= self._groups_max:
            raise TooManyGroups
        if place == self._room:
            self._grow()
        self._groups.append(group)
        self._places[group] = place
        return place

    cdef int _grow(self) except -1:
        cdef Py_ssize_t room = max(64, 2 * self._room)
        cdef size_t numbers = KINDS * MEASURES * sizeof(uint64_t), last = SERIES * sizeof(int64_t)
        cdef void *found = PyMem_RawRealloc(self._numbers, room * numbers)
        if found == NULL:
            raise MemoryError
        self._numbers = <uint64_t *>found
        memset(<char *>found + self._room * numbers, 0, (room - self._room) * numbers)
        found = PyMem_RawRealloc(self._last, room * last)
        if found == NULL:
            raise MemoryError
        self._last = <int64_t *>found
        # -1 of all.
        memset(<char *>found + self._room * last, 0xff, (room - self._room) * last)
        found = PyMem_RawRealloc(self._known, room * sizeof(Known))
        if found == NULL:
            raise MemoryError
        self._known = <Known *>found
        memset(self._known + self._room, 0xff, (room - self._room) * sizeof(Known))
        self._room = room
        return 0

    cdef int _add_map(
        self, Py_ssize_t of, const uint8_t *keys, const uint8_t *values, uint32_t size, bint taken
    ) except -1:
        cdef Piece *piece
        cdef uint32_t i
        for i in range(size):
            if unsigned(keys + 2 * i, 2) >= CLASSES:
                raise ValueError("The answer has times of a class that there is not.")
        if self._count == self._pieces_room:
            self._pieces_room = max(256, 2 * self._pieces_room)
            piece = <Piece *>PyMem_RawRealloc(self._pieces, self._pieces_room * sizeof(Piece))
            if piece == NULL:
                raise MemoryError
            self._pieces = piece
        self._pieces[self._count] = Piece(keys, values, size, taken, self._last[of])
        self._last[of] = self._count
        self._count += 1
        return 0

    def sums(self):
        cdef Py_ssize_t count, place, i, row
        cdef Py_ssize_t width = KINDS * MEASURES
        cdef bytes numbers, times
        cdef uint64_t *sums
        cdef double *result
        cdef list places, groups = self._groups
        self._check()
        # What was moved from one group to another leaves nothing.
        places = [place for place in range(len(groups)) if self._is_any(place)]
        count = len(places)
        if count < len(groups):
            groups = [groups[place] for place in places]
        numbers = PyBytes_FromStringAndSize(NULL, count * width * sizeof(uint64_t))
        times = PyBytes_FromStringAndSize(NULL, count * SERIES * PARTS * sizeof(double))
        sums, result = <uint64_t *>PyBytes_AS_STRING(numbers), <double *>PyBytes_AS_STRING(times)
        for row in range(count):
            if row % TURN == TURN - 1:
                with nogil:
                    pass
            place = places[row]
            memcpy(sums + row * width, self._numbers + place * width, width * sizeof(uint64_t))
            for i in range(SERIES):
                quantiles(
                    self._pieces, self._last[place * SERIES + i], self._classes,
                    result + (row * SERIES + i) * PARTS,
                )
        return Sums(groups, numbers, times)

    cdef bint _is_any(self, Py_ssize_t place) noexcept:
        """Whether anything is in a group."""
        cdef Py_ssize_t width = KINDS * MEASURES, i
        for i in range(place * width, (place + 1) * width):
            if self._numbers[i]:
                return True
        return False
