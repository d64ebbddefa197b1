"""The rows of a report, from how often each event came in each group (`engine.activity.reports`).

Theory. The sums come as numbers side by side, so that a group costs what its row costs: the numbers of the
row, its quantiles and the row itself are made, and nothing else for each.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree
from cpython.object cimport PyObject
from libc.math cimport isnan
from libc.stdint cimport int64_t
from libc.string cimport memset

from engine.activity.countries import country_of
from engine.activity.reports import (
    EFFECTS, ENDED, KNOWN, LINES, SUMMED, TIMED, TIMES, Quantiles, ReportRow,
)

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
    "delivery_rate", *(f"{name}_ms" for name in ("answer", "sent_after", "delivered_after")),
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


cdef int _prepare() except -1:
    """Have the effects of events as numbers."""
    cdef int kind
    assert KINDS <= KINDS_MAX and ENDS <= ENDS_MAX
    memset(EFFECT, 0, sizeof(EFFECT))
    for kind, event in enumerate(SUMMED):
        effect = EFFECTS[event]
        for place in effect.more:
            EFFECT[kind].ended[<int>place] += 1
        for place in effect.less:
            EFFECT[kind].ended[<int>place] -= 1
        EFFECT[kind].moves_units, EFFECT[kind].begins = effect.moves_units, effect.begins
        EFFECT[kind].captures, EFFECT[kind].releases = effect.captures, effect.releases
    for place in range(ENDS):
        KNOWN_ENDS[<int>place] = place in KNOWN
    return 0


_prepare()


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


def rows_of(sums, group_by, begins, of_provider=False):
    cdef list named = [name for name in group_by if name != "status"]
    cdef list groups = list(sums.groups), rows = [], order
    cdef bytes numbers = sums.numbers, times = sums.times
    cdef Py_ssize_t count = len(groups), all_count, i, place, row
    cdef bint by_status = "status" in group_by
    cdef tuple names, about
    cdef Line *lines
    cdef dict places = {}, known = {}
    cdef const double *quantiles
    if len(numbers) != count * KINDS * MEASURES * 8 or len(times) != count * SERIES * PARTS * 8:
        raise ValueError("The sums are not those of the groups.")
    names = tuple("time" if name in TIMES else name for name in named) + (
        ("status", "messages", "segments", "units") if by_status else _NUMBERS
    )
    place = named.index("provider") if "provider" in named and not of_provider else -1
    whole_of = []
    if place >= 0:
        # What has not ended is with no provider, whose groups are there afterwards.
        places = {group: i for i, group in enumerate(groups)}
        for group in groups[:]:
            whole = group[:place] + ("",) + group[place + 1:]
            found = places.get(whole)
            if found is None:
                found = places[whole] = len(groups)
                groups.append(whole)
            whole_of.append(found)
    all_count = len(groups)
    lines = <Line *>PyMem_RawCalloc(max(all_count, 1), sizeof(Line))
    if lines == NULL:
        raise MemoryError
    try:
        for i in range(count):
            _count(<const int64_t *>PyBytes_AS_STRING(numbers) + i * KINDS * MEASURES, &lines[i])
        if of_provider:
            for i in range(count):
                memset(lines[i].left, 0, sizeof(lines[i].left))
        elif place >= 0:
            _to_wholes(lines, whole_of, all_count)
        # A place of all groups has either text or numbers.
        order = sorted(range(all_count), key=groups.__getitem__)
        for row in range(all_count):
            if row % TURN == TURN - 1:
                with nogil:
                    pass
            i = order[row]
            quantiles = NULL
            if i < count:
                quantiles = <const double *>PyBytes_AS_STRING(times) + i * SERIES * PARTS
            if by_status:
                about = _about(named, groups[i], begins, known)
                _add_by_status(rows, about, names, &lines[i])
            elif _has_any(&lines[i]):
                rows.append(_row(_about(named, groups[i], begins, known), names, &lines[i], quantiles))
    finally:
        PyMem_RawFree(lines)
    return rows


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


cdef tuple _about(list named, tuple group, begins, dict known):
    """The group as the fields of a row that name it. `known`: what was made of times."""
    cdef list about = []
    cdef Py_ssize_t i
    for i in range(len(named)):
        name, value = named[i], group[i]
        if name in TIMES:
            found = known.get(value)
            if found is None:
                found = known[value] = begins(value)
            about.append(found)
        elif name == "country":
            about.append(country_of(value))
        else:
            about.append(value)
    return tuple(about)


cdef object _made(tuple values, tuple names):
    # A call with as many names would otherwise make a dictionary of them.
    return PyObject_Vectorcall(ReportRow, PySequence_Fast_ITEMS(values), 0, names)


cdef int _add_by_status(list rows, tuple about, tuple names, const Line *line) except -1:
    """Add a row for each status that any message of the group has."""
    cdef const int64_t *measures
    for status in LINES:
        if status == "accepted":
            measures = &line.left[0]
        else:
            measures = &line.ended[<int>ENDED.index(status)][0]
        if measures[0] or measures[1] or measures[2]:
            rows.append(_made(about + (status, measures[0], measures[1], measures[2]), names))
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


cdef object _row(tuple about, tuple names, const Line *line, const double *quantiles):
    """The row of a group. `quantiles`: NULL: it has none."""
    cdef int64_t[MEASURES] sums
    cdef int64_t known = 0
    cdef int end, measure
    cdef list values = list(about)
    for measure in range(MEASURES):
        sums[measure] = line.left[measure]
        for end in range(ENDS):
            sums[measure] += line.ended[end][measure]
        values.append(sums[measure])
    values.append(line.left[0])
    for end in range(ENDS):
        values.append(line.ended[end][0])
        known += line.ended[end][0] if KNOWN_ENDS[end] else 0
    values.append(line.retries)
    values.append(line.left[HELD])
    values.append(line.captured)
    values.append(line.released)
    values.append(round(line.ended[DELIVERED][0] / <double>known, 6) if known > 0 else None)
    for measure in range(SERIES):
        if quantiles == NULL or isnan(quantiles[0]):
            values.append(None)
        else:
            values.append(Quantiles(_ms(quantiles[0]), _ms(quantiles[1]), _ms(quantiles[2])))
        if quantiles != NULL:
            quantiles += PARTS
    return _made(tuple(values), names)


cdef inline double _ms(double us) noexcept nogil:
    """Milliseconds, of whole microseconds."""
    return <double><int64_t>(us + 0.5) / 1000.0
