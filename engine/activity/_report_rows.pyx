"""The rows of a report, from how often each event came in each group (`engine.activity.reports`).

Theory. The sums come as numbers side by side, so that a group costs what its row costs: the numbers of the
row, its quantiles and the row itself are made, and nothing else for each.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree
from cpython.object cimport PyObject
from libc.math cimport fabs, floor, isnan
from libc.stdint cimport int64_t
from libc.string cimport memset

from engine.activity.reports import ENDED, LINES, SUMMED, TIMED, TIMES, Quantiles, ReportRow

cdef extern from "Python.h":
    object PyObject_Vectorcall(object, PyObject *const *, size_t, object)
    PyObject **PySequence_Fast_ITEMS(object)

cdef enum:
    MEASURES = 3
    UNITS = 2
    HELD = 3
    PARTS = 3
    # More than there are events, and statuses in which a message has ended.
    KINDS_MAX = 32
    ENDS_MAX = 16
    # After so many rows other threads have a turn.
    TURN = 512

cdef int KINDS = len(SUMMED), ENDS = len(ENDED), SERIES = len(TIMED)
_NUMBERS = (
    "messages", "segments", "units", "accepted", *ENDED, "retries", "held", "captured", "released",
    "delivery_rate", "answer_ms", "sent_after_ms", "delivered_after_ms",
)


cdef struct Effect:
    # By status in which a message ends: how many more it has.
    int[ENDS_MAX] ended
    bint moves_units
    bint begins
    bint captures
    bint releases


cdef struct Line:
    # Of one group: messages, segments and units by status, without `accepted`.
    int64_t[ENDS_MAX][MEASURES] ended
    int64_t captured
    int64_t released
    int64_t retries
    # Messages, segments and units that have not ended, and units that are held.
    int64_t[4] left


cdef Effect[KINDS_MAX] EFFECT
cdef int RETRYING = SUMMED.index("retrying"), DELIVERED = ENDED.index("delivered")
cdef int[ENDS_MAX] KNOWN_ENDS


cdef object _country_of = None


def prepare(effects, known, country_of):
    global _country_of
    cdef int kind, place
    assert len(effects) == KINDS <= KINDS_MAX and ENDS <= ENDS_MAX
    memset(EFFECT, 0, sizeof(EFFECT))
    for kind, (ended, moves_units, begins, captures, releases) in enumerate(effects):
        for place in range(ENDS):
            EFFECT[kind].ended[place] = ended[place]
        EFFECT[kind].moves_units, EFFECT[kind].begins = moves_units, begins
        EFFECT[kind].captures, EFFECT[kind].releases = captures, releases
    for place in range(ENDS):
        KNOWN_ENDS[place] = place in known
    _country_of = country_of


cdef void _count(const int64_t *numbers, Line *line) noexcept nogil:
    """What the events of a group come to."""
    cdef int kind, end, measure
    cdef const Effect *effect
    memset(line, 0, sizeof(Line))
    for kind in range(KINDS):
        effect = &EFFECT[kind]
        for end in range(ENDS):
            if effect.ended[end]:
                for measure in range(MEASURES):
                    # What is sent again holds no units: they stay with the first attempt.
                    if measure != UNITS or effect.moves_units:
                        line.ended[end][measure] += effect.ended[end] * numbers[measure]
        if effect.begins:
            for measure in range(MEASURES):
                line.left[measure] += numbers[measure]
            line.left[HELD] += numbers[UNITS]
        elif effect.captures:
            line.captured += numbers[UNITS]
        elif effect.releases:
            line.released += numbers[UNITS]
        if kind == RETRYING:
            line.retries = numbers[0]
        numbers += MEASURES
    for end in range(ENDS):
        for measure in range(MEASURES):
            line.left[measure] -= line.ended[end][measure]
    line.left[HELD] -= line.captured + line.released


def rows_of(sums, group_by, begins, of_provider):
    cdef list named = [name for name in group_by if name != "status"]
    cdef list groups = list(sums.groups), rows = [], whole_of = [], order
    cdef bytes numbers = sums.numbers, times = sums.times
    cdef Py_ssize_t count = len(groups), place, i, row
    cdef bint by_status = "status" in group_by
    cdef _Maker maker = _Maker(named, by_status, begins)
    cdef Line *lines
    cdef const double *quantiles
    if len(numbers) != count * KINDS * MEASURES * 8 or len(times) != count * SERIES * PARTS * 8:
        raise ValueError("The sums are not those of the groups.")
    place = named.index("provider") if "provider" in named and not of_provider else -1
    if place >= 0:
        whole_of = _wholes(groups, place)
    lines = <Line *>PyMem_RawCalloc(max(<Py_ssize_t>len(groups), 1), sizeof(Line))
    if lines == NULL:
        raise MemoryError
    try:
        for i in range(count):
            _count(<const int64_t *>PyBytes_AS_STRING(numbers) + i * KINDS * MEASURES, &lines[i])
            if of_provider:
                memset(lines[i].left, 0, sizeof(lines[i].left))
        if place >= 0:
            _to_wholes(lines, whole_of, len(groups))
        # A place of all groups has either text or numbers.
        order = [i for i in range(len(groups)) if by_status or _has_any(&lines[i])]
        order.sort(key=groups.__getitem__)
        for row in range(len(order)):
            if row % TURN == TURN - 1:
                with nogil:
                    pass
            i = order[row]
            maker.set_group(groups[i])
            if by_status:
                maker.add_by_status(rows, &lines[i])
            else:
                quantiles = NULL
                if i < count:
                    quantiles = <const double *>PyBytes_AS_STRING(times) + i * SERIES * PARTS
                rows.append(maker.row(&lines[i], quantiles))
    finally:
        PyMem_RawFree(lines)
    return rows


cdef list _wholes(list groups, Py_ssize_t place):
    """By group, the place of that without a provider, which it has at `place`. Such groups are there
    afterwards: with them is what has not ended."""
    cdef dict places = {group: i for i, group in enumerate(groups)}
    cdef list found = []
    cdef tuple group, whole
    for group in groups[:]:
        whole = group[:place] + ("",) + group[place + 1:]
        if whole not in places:
            places[whole] = len(groups)
            groups.append(whole)
        found.append(places[whole])
    return found


cdef int _to_wholes(Line *lines, list whole_of, Py_ssize_t count) except -1:
    """Move what has not ended of each group, with whichever provider it ended, to the group without one:
    what was accepted less what has ended."""
    cdef Py_ssize_t i, whole
    cdef int measure
    cdef int64_t *left = <int64_t *>PyMem_RawCalloc(count * 4, sizeof(int64_t))
    if left == NULL:
        raise MemoryError
    for i in range(len(whole_of)):
        whole = whole_of[i]
        for measure in range(4):
            left[4 * whole + measure] += lines[i].left[measure]
    for i in range(count):
        for measure in range(4):
            lines[i].left[measure] = left[4 * i + measure]
    PyMem_RawFree(left)
    return 0


cdef bint _has_any(const Line *line) noexcept:
    """Whether any message is in the group."""
    cdef int64_t messages = line.left[0]
    cdef bint any_ended = False
    cdef int end
    for end in range(ENDS):
        messages += line.ended[end][0]
        any_ended = any_ended or line.ended[end][0] != 0
    return messages or line.retries or line.captured or line.released or any_ended


cdef class _Maker:
    """Makes rows: `set_group`, then those of the group."""

    cdef list _named
    cdef object _begins
    # By place in a group, what was made of values.
    cdef list _known
    # The names of a row's fields that are set, and their values.
    cdef tuple _names
    cdef list _values
    cdef Py_ssize_t _groups

    def __init__(self, list named, bint by_status, begins):
        self._named, self._begins, self._groups = named, begins, len(named)
        self._known = [{} for _ in named]
        self._names = tuple("time" if name in TIMES else name for name in named) + (
            ("status", "messages", "segments", "units") if by_status else _NUMBERS
        )
        self._values = [None] * len(self._names)

    cdef int set_group(self, tuple group) except -1:
        cdef Py_ssize_t i
        for i in range(self._groups):
            known, value = <dict>self._known[i], group[i]
            found = known.get(value)
            if found is None:
                name = self._named[i]
                if name in TIMES:
                    found = self._begins(value)
                else:
                    found = _country_of(value) if name == "country" else value
                known[value] = found
            self._values[i] = found
        return 0

    cdef object _made(self):
        # A call with as many names would otherwise make a dictionary of them.
        return PyObject_Vectorcall(ReportRow, PySequence_Fast_ITEMS(self._values), 0, self._names)

    cdef int add_by_status(self, list rows, const Line *line) except -1:
        """Add a row for each status that any message of the group has."""
        cdef const int64_t *measures
        cdef Py_ssize_t measure
        for status in LINES:
            if status == "accepted":
                measures = &line.left[0]
            else:
                measures = &line.ended[<int>ENDED.index(status)][0]
            if measures[0] or measures[1] or measures[2]:
                self._values[self._groups] = status
                for measure in range(MEASURES):
                    self._values[self._groups + 1 + measure] = measures[measure]
                rows.append(self._made())
        return 0

    cdef object row(self, const Line *line, const double *quantiles):
        """The row of the group. `quantiles`: of its times; NULL: it has none."""
        cdef list values = self._values
        cdef Py_ssize_t at = self._groups, measure, end
        cdef int64_t known = 0, sum
        for measure in range(MEASURES):
            sum = line.left[measure]
            for end in range(ENDS):
                sum += line.ended[end][measure]
            values[at + measure] = sum
        at += MEASURES
        values[at] = line.left[0]
        for end in range(ENDS):
            values[at + 1 + end] = line.ended[end][0]
            known += line.ended[end][0] if KNOWN_ENDS[end] else 0
        at += 1 + ENDS
        values[at], values[at + 1] = line.retries, line.left[HELD]
        values[at + 2], values[at + 3] = line.captured, line.released
        values[at + 4] = _rate(line.ended[DELIVERED][0], known) if known > 0 else None
        for measure in range(SERIES):
            if quantiles == NULL or isnan(quantiles[PARTS * measure]):
                values[at + 5 + measure] = None
            else:
                values[at + 5 + measure] = _quantiles(quantiles + PARTS * measure)
        return self._made()


cdef object _rate(int64_t some, int64_t of):
    """A part to six places."""
    cdef double rate = some / <double>of, millions = 1e6 * rate, whole = floor(millions)
    # Unless it lies in the middle, as near as numbers can tell, it is plain to which side it goes.
    if 0 <= rate <= 1 and fabs(millions - whole - 0.5) > 1e-6:
        return (whole + 1 if millions - whole > 0.5 else whole) / 1e6
    return round(rate, 6)


cdef object _quantiles(const double *us):
    """Milliseconds, of whole microseconds."""
    return Quantiles(
        <double><int64_t>(us[0] + 0.5) / 1000.0,
        <double><int64_t>(us[1] + 0.5) / 1000.0,
        <double><int64_t>(us[2] + 0.5) / 1000.0,
    )
