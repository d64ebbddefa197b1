"""The columns of a report's answer in the format Native: what they say, by their names, and which may stand
together; inlined into `_report_sums.pyx`."""

from libc.stdint cimport uint64_t, uint8_t

from engine.stores.clickhouse._native cimport MAP, TEXT, UNSIGNED, WORDS, Column, next_name, set_kind, values

cdef enum:
    # What a column says.
    GROUP = 0
    EVENTS = 1
    SEGMENTS = 2
    UNITS = 3
    ANSWERS = 4
    AGES = 5
    LOST = 6
    COUNTED = 7
    OFF = 8
    # Most columns of an answer.
    COLUMNS = 32


cdef inline bint is_time(const Column *column) noexcept nogil:
    """Whether a column has numbers as times are written, of which some may be off."""
    return column.kind == UNSIGNED and column.width == 4


cdef inline int place_in(str name, str begin) except -1:
    """The number at the end of a column's name. Raises ValueError for one that is of no column."""
    place = int(name.removeprefix(begin))
    if not 0 <= place < COLUMNS:
        raise ValueError(f"The column {name} is of no series and no group.")
    return place


cdef inline int set_role(Column *column, str name, list counted) except -1:
    """Note what a column says, by its name."""
    if name == "n":
        column.role = EVENTS
    elif name == "parts":
        column.role = SEGMENTS
    elif name == "held":
        column.role = UNITS
    elif name == "of_answers":
        column.role = ANSWERS
    elif name == "of_ages":
        column.role = AGES
    elif name == "lost":
        column.role = LOST
    elif name.startswith("g"):
        column.role = GROUP
    elif name.startswith("off"):
        column.role, column.place = OFF, place_in(name, "off")
    else:
        column.role = COUNTED
        column.place = place_in(name, "counted")
        while len(counted) <= column.place:
            counted.append(0)
    return 0


cdef inline const uint8_t *block(
    const uint8_t *at, const uint8_t *end, Column *columns, int width, uint64_t rows, int *groups,
    list types, list counted, list kept
) except NULL:
    """Read where the columns of a block begin, and what they are; where it ends. `types`: of the groups of the
    answer's blocks before it; none: it is the first; `counted`: gets a place for each series; `kept`: as of
    `values`. Raises ValueError for what is no such block."""
    cdef Column *column
    cdef list found = []
    cdef int i
    cdef str name, kind
    groups[0] = 0
    for i in range(width):
        column = &columns[i]
        name, kind = next_name(&at, end), next_name(&at, end)
        set_kind(column, kind)
        set_role(column, name, counted)
        is_map = column.role == ANSWERS or column.role == AGES
        is_text = column.kind == TEXT or column.kind == WORDS
        if column.width < 0 or is_map != (column.kind == MAP) or is_text and column.role != GROUP:
            raise ValueError(f"The column {name} has the type {kind}.")
        if column.role == GROUP:
            # The groups come first, the event as the last of them.
            if groups[0] != i:
                raise ValueError(f"The column {name} stands behind others.")
            groups[0] = i + 1
            found.append(kind)
        at = values(column, at, end, rows, kept)
    if groups[0] == 0 or columns[groups[0] - 1].kind not in (TEXT, WORDS):
        raise ValueError("The answer has no column of events.")
    # Groups are told apart by their octets.
    if types and types != found:
        raise ValueError("The answer has groups of several types.")
    types[:] = found
    for i in range(groups[0], width):
        column = &columns[i]
        if column.role == OFF and (
            not 0 <= column.place < groups[0] or not (is_time(column) and is_time(&columns[column.place]))
        ):
            raise ValueError("The answer takes off what is no time.")
    return at
