"""Quantiles of times that are counted in classes (`time_classes`), of maps where they lie in answers; inlined
into `_report_sums.pyx`."""

from libc.math cimport NAN, exp2
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy

cdef enum:
    # Classes that there may be, and those in an octave, as in `time_classes`: of times that are less than
    # 2 ** 62 microseconds.
    CLASSES = 496
    OCTAVE = 8
    # p50, p95 and p99.
    PARTS = 3


cdef struct Piece:
    # A map: its classes, how many times are in each, and how many there are.
    const uint8_t *keys
    const uint8_t *values
    uint32_t size
    bint taken
    # Of the same times of the group the one before it; -1: none.
    int64_t before


cdef inline void quantiles(
    const Piece *pieces, int64_t last, uint64_t *classes, double *result
) noexcept nogil:
    """Those of a map and of all before it together; NaN when they are empty. Their keys are less than
    CLASSES. `classes`: zeros, before and after."""
    cdef double[PARTS] parts = [0.5, 0.95, 0.99]
    cdef const Piece *piece
    cdef uint64_t count = 0, total = 0, below = 0
    cdef uint32_t i
    cdef uint16_t key = 0
    cdef int place, low = CLASSES, high = -1, reached = 0
    cdef double wanted
    while last >= 0:
        piece = &pieces[last]
        for i in range(piece.size):
            memcpy(&key, piece.keys + 2 * i, 2)
            memcpy(&count, piece.values + 8 * i, 8)
            place = key
            if piece.taken:
                count = -count
            classes[place] += count
            total += count
            low, high = min(low, place), max(high, place)
        last = piece.before
    for place in range(low, high + 1):
        count, classes[place] = classes[place], 0
        below += count
        while count and reached < PARTS and below >= parts[reached] * total:
            # Within a class the logarithms of times are spread evenly.
            wanted = parts[reached] * total
            result[reached] = exp2((place + 1 - (below - wanted) / count) / OCTAVE)
            reached += 1
    if reached < PARTS:
        result[0] = result[1] = result[2] = NAN
