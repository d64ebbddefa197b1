"""Events in the order of their times, and random numbers; inlined into `_simulate.pyx`."""

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport realloc


cdef struct Event:
    double at
    # Events of the same time happen in the order in which they were pushed.
    uint64_t number
    int64_t what


# A binary heap: the next event is the first. `broken`: there was no memory for one.
cdef struct Heap:
    Event* events
    size_t size
    size_t room
    uint64_t pushed
    bint broken


cdef inline double draw(uint64_t* state) noexcept nogil:
    # xorshift64*: S. Vigna, An experimental exploration of Marsaglia's xorshift generators, 2016.
    cdef uint64_t x = state[0]
    x ^= x >> 12
    x ^= x << 25
    x ^= x >> 27
    state[0] = x
    return ((x * <uint64_t>2685821657736338717) >> 11) * (1.0 / 9007199254740992.0)


cdef inline void push(Heap* heap, double at, int64_t what) noexcept nogil:
    cdef size_t place, parent
    cdef Event* grown
    if heap.size == heap.room:
        grown = <Event*>realloc(heap.events, 2 * heap.room * sizeof(Event))
        if grown == NULL:
            heap.broken = True
            return
        heap.events = grown
        heap.room *= 2
    place = heap.size
    heap.size += 1
    while place > 0:
        parent = (place - 1) >> 1
        # The one that is pushed now is the last of its time.
        if heap.events[parent].at <= at:
            break
        heap.events[place] = heap.events[parent]
        place = parent
    heap.pushed += 1
    heap.events[place].at = at
    heap.events[place].number = heap.pushed
    heap.events[place].what = what


cdef inline bint before(Event* a, Event* b) noexcept nogil:
    return a.at < b.at or (a.at == b.at and a.number < b.number)


cdef inline Event pop(Heap* heap) noexcept nogil:
    cdef Event top = heap.events[0]
    cdef Event last
    cdef size_t place = 0, child
    heap.size -= 1
    last = heap.events[heap.size]
    while True:
        child = 2 * place + 1
        if child >= heap.size:
            break
        if child + 1 < heap.size and before(&heap.events[child + 1], &heap.events[child]):
            child += 1
        if not before(&heap.events[child], &last):
            break
        heap.events[place] = heap.events[child]
        place = child
    heap.events[place] = last
    return top
