"""The state of a simulation, and its memory; inlined into `_simulate.pyx`."""

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from engine.capacity._events cimport Event, Heap


cdef struct Process:
    int queue
    # Sends in flight, and messages that are in hand and not sent, with a timeline those that have a slot: first,
    # last and count.
    int taken
    int hand_first
    int hand_last
    int hand
    bint running
    # Since when it has lived, when it took the place of one that was killed; -1: from the beginning. And whether
    # it is dead now.
    double born
    bint dead
    # What it had in hand when it was killed: first and count.
    int left_first
    int left
    # Messages for the next round, and of this one: first, last and count.
    int first
    int last
    int count
    int now_first


cdef struct Queue:
    int concurrency
    # Messages in hand beside the sends in flight, and how many must be missing for a read.
    int ahead
    int worth
    int begin
    int end
    # Where the search for a free process begins.
    int turn
    # The ring of organisations that wait: the last one, whose next is the first; -1: nobody waits.
    int ring
    bint wakes
    # What fenced workers had in hand, and nobody has taken over: first, last and count.
    int left_first
    int left_last
    int left
    double round_s
    double event_s
    double backoff_s
    # How long an answer takes in the mean.
    double usual_s
    double busy_s
    double held_s


cdef struct World:
    Heap heap
    Process* processes
    Queue of_queue[2]
    # Of each organisation: its next in the ring, its first and last message; -1: none.
    int* ring_next
    int* first
    int* last
    # Of each message.
    double* arrived
    double* send_at
    double* taken_at
    int* next
    int* organisation
    int* process
    unsigned char* state
    unsigned char* tries
    int messages
    uint64_t random
    double failed
    # How long after its death a worker is replaced, and fenced; how often a worker looks for what others left, and
    # how soon again when there was more, seconds.
    double replaced_s
    double fenced_s
    double look_s
    double again_s
    # The provider's timeline; slot_s 0: it has no throughput.
    double slot_s
    double share
    double horizon_s
    double tail
    double kept
    # For both queues.
    double segments
    double counted_from
    const int* queues
    const double* inner
    Py_ssize_t inner_size
    const double* answers[2]
    Py_ssize_t answers_size[2]
    # The answers of all sends in order, where they are given, and how many sends there were.
    const double* given
    Py_ssize_t given_size
    Py_ssize_t sent
    int64_t* bins[2]


cdef inline bint allocate(World* w, Py_ssize_t messages, Py_ssize_t organisations, int workers) noexcept nogil:
    w.heap.events = <Event*>malloc(1024 * sizeof(Event))
    w.heap.room, w.heap.size, w.heap.pushed, w.heap.broken = 1024, 0, 0, False
    w.processes = <Process*>calloc(workers + 1, sizeof(Process))
    w.ring_next = <int*>malloc((organisations + 1) * sizeof(int))
    w.first = <int*>malloc((organisations + 1) * sizeof(int))
    w.last = <int*>malloc((organisations + 1) * sizeof(int))
    w.arrived = <double*>malloc((messages + 1) * sizeof(double))
    w.send_at = <double*>malloc((messages + 1) * sizeof(double))
    w.taken_at = <double*>malloc((messages + 1) * sizeof(double))
    w.next = <int*>malloc((messages + 1) * sizeof(int))
    w.organisation = <int*>malloc((messages + 1) * sizeof(int))
    w.process = <int*>calloc(messages + 1, sizeof(int))
    w.state = <unsigned char*>calloc(messages + 1, 1)
    w.tries = <unsigned char*>calloc(messages + 1, 1)
    return (
        w.heap.events != NULL and w.processes != NULL and w.ring_next != NULL and w.first != NULL and w.last != NULL
        and w.arrived != NULL and w.send_at != NULL and w.taken_at != NULL and w.next != NULL
        and w.organisation != NULL and w.process != NULL and w.state != NULL and w.tries != NULL
    )


cdef inline void release(World* w) noexcept nogil:
    free(w.heap.events)
    free(w.processes)
    free(w.ring_next)
    free(w.first)
    free(w.last)
    free(w.arrived)
    free(w.send_at)
    free(w.taken_at)
    free(w.next)
    free(w.organisation)
    free(w.process)
    free(w.state)
    free(w.tries)
