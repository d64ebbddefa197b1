"""Events and states, and who is next: lists of messages, turns and slots; inlined into `_simulate.pyx`."""

from libc.stdint cimport int64_t

from engine.capacity._events cimport draw, push
from engine.capacity._world cimport Process, Queue, World


# Kinds of events: a round of a process ends, a message is answered, a slot of the provider comes near for a
# queue, a message is to be tried again, the slot of a message of a process is there; a process is killed, is
# replaced, is fenced, looks for what others left; and one that does not happen.
cdef enum:
    ROUND = 0
    ANSWER = 1
    SLOT = 2
    RETRY = 3
    SEND = 4
    DEATH = 5
    BIRTH = 6
    FENCE = 7
    LOOK = 8
    NOTHING = 9

# States of a message: it waits, is to be sent, was sent and will be answered so, or is done.
cdef enum:
    WAITS = 0
    TO_SEND = 1
    ACCEPTED = 2
    FAILED = 3
    DONE = 4


cdef inline int64_t event(int kind, int index) noexcept nogil:
    return (<int64_t>index << 4) | kind


cdef inline double uniform(World* w) noexcept nogil:
    return draw(&w.random)


cdef inline void enter(World* w, Queue* q, int message) noexcept nogil:
    """A message waits for its organisation's turn."""
    cdef int organisation = w.organisation[message]
    w.next[message] = -1
    if w.first[organisation] >= 0:
        w.next[w.last[organisation]] = message
    else:
        w.first[organisation] = message
        if q.ring < 0:
            w.ring_next[organisation] = organisation
        else:
            w.ring_next[organisation] = w.ring_next[q.ring]
            w.ring_next[q.ring] = organisation
        q.ring = organisation
    w.last[organisation] = message


cdef inline int leave(World* w, Queue* q) noexcept nogil:
    """The message whose turn it is; its organisation goes to the end of the ring, or out of it."""
    cdef int organisation = w.ring_next[q.ring]
    cdef int message = w.first[organisation]
    w.first[organisation] = w.next[message]
    if w.first[organisation] >= 0:
        q.ring = organisation
    elif q.ring == organisation:
        q.ring = -1
    else:
        w.ring_next[q.ring] = w.ring_next[organisation]
    return message


cdef inline double slot(World* w, int queue, double now, double* again) noexcept nogil:
    """When the next message of a queue may be sent; -1: not yet, ask at `again`."""
    cdef double ahead, reach, at
    cdef bint reserve
    at = w.tail if w.tail > now else now
    ahead = at - now
    reach = w.horizon_s / 2
    reserve = queue == 0 and w.share > 0 and w.kept <= now + w.horizon_s
    if ahead > reach and not (reserve and ahead <= w.horizon_s):
        if reserve:
            reach = w.horizon_s
        # A little later than that, so that rounding does not make it ask twice.
        again[0] = now + ahead - reach + 1e-7
        return -1
    if ahead > reach:
        w.kept = (w.kept if w.kept > now else now) + w.segments * w.slot_s / w.share
    w.tail = at + w.segments * w.slot_s
    return at


cdef inline void add(World* w, Process* process, int message) noexcept nogil:
    w.next[message] = -1
    if process.count == 0:
        process.first = message
    else:
        w.next[process.last] = message
    process.last = message
    process.count += 1


cdef inline void take_in_hand(World* w, Process* process, int message) noexcept nogil:
    w.next[message] = -1
    if process.hand == 0:
        process.hand_first = message
    else:
        w.next[process.hand_last] = message
    process.hand_last = message
    process.hand += 1


cdef inline void begin_round(World* w, int index, double now) noexcept nogil:
    cdef Process* process = &w.processes[index]
    cdef Queue* q = &w.of_queue[process.queue]
    cdef double lasts = q.round_s + q.event_s * process.count
    process.now_first = process.first
    process.count = 0
    process.running = True
    q.busy_s += lasts
    push(&w.heap, now + lasts, event(ROUND, index))


cdef inline double answer(World* w, int queue, int message) noexcept nogil:
    """How long the provider takes for a send, and whether it fails."""
    cdef double lasts
    if w.given_size:
        lasts = w.given[w.sent % w.given_size]
        w.sent += 1
        w.state[message] = FAILED if lasts < 0 else ACCEPTED
        return -lasts if lasts < 0 else lasts
    lasts = w.answers[queue][<Py_ssize_t>(uniform(w) * w.answers_size[queue])]
    w.state[message] = FAILED if w.failed > 0 and uniform(w) < w.failed else ACCEPTED
    return lasts
