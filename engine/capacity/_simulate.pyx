"""The path of messages from their arrival to the provider's answer, event by event, compiled.

What is simulated, for each of two queues:

    arrivals    bursts of messages of organisations, at times that are given
    turns       organisations with waiting messages take turns, one message each
    workers     `processes`, each with one loop and `concurrency` slots. The loop works in rounds: a round takes
                all that has come up meanwhile (messages to send, answers to act upon), and lasts `round_s` and
                `event_s` for each. A slot is taken from the send to the end of its answer's round
    in hand     a worker reads ahead: beside its sends it has up to `ahead` messages in hand, which are no longer
                in their turn and which no other worker sends. It reads when `worth` of them are missing
    provider    answers each send after a time that is drawn from a table, or the nth send of all after the nth
                time that is given
    limit       with `slot_s`, each segment has a slot of its own on a timeline that both queues share, as in
                `stores/redis/functions/throughput.lua`, and nothing is read before it has one. What has one is in
                hand until its time and until a send may begin. So many slots are asked for as sends may begin,
                and as are likely to have been answered half a horizon later (`Lane.wish` in `delivery/lane.py`)
    failures    `failed` of the answers are temporary failures, or those whose time is given as negative; such a
                message waits for `backoff_s`, twice as long each time, with the jitter of `engine/clocks/backoff.py`, and then for its turn
    deaths      at times that are given a worker is killed. What it had in hand, sends in flight among it, waits until
                the worker is fenced, `fenced_s` later, and then until a worker looks (`delivery/sweeper.py`): each
                does so every `look_s`, takes as much as it has room for, and looks again after `again_s` when there
                is more. It is sent after what that worker has in hand, or, with `slot_s`, in its turn. A worker
                that is new takes the place of the dead one after `replaced_s`

One call is deterministic by its seed. `tests/capacity/model.py` is the same in plain Python, and the two are
held together by a test.
"""

from array import array

from cpython cimport array as c_array
from libc.math cimport floor, log
from libc.stdint cimport int64_t, uint64_t

from engine.capacity._events cimport Event, draw, pop, push
from engine.capacity._turns cimport (
    ACCEPTED, ANSWER, BIRTH, DEATH, DONE, FAILED, FENCE, LOOK, NOTHING, RETRY, ROUND, SEND, SLOT, TO_SEND, WAITS,
    add, answer, begin_round, enter, event, leave, slot, take_in_hand, uniform,
)
from engine.capacity._world cimport Process, Queue, World, allocate, release

# The number of bins.
cdef enum:
    BIN_COUNT = 2600

# Bounds of the bins of latencies grow by 1 % from a microsecond.
cdef double FIRST_S = 1e-6
cdef double PER_BIN = 1 / log(1.01)
BINS = BIN_COUNT


cdef inline bint reads(World* w, Process* process, Queue* q) noexcept nogil:
    """Whether a process has room enough for a read; with a timeline, whether it asks for a slot."""
    if process.dead:
        return False
    if w.slot_s:
        return process.taken + process.hand < q.concurrency + <int>(process.taken * (w.horizon_s / 2) / q.usual_s)
    return q.concurrency + q.ahead - process.taken - process.hand >= q.worth


cdef void read(World* w, Process* process, Queue* q) noexcept nogil:
    """A process takes messages in hand, in their turns, as far as it has room."""
    cdef int message, room = q.concurrency + q.ahead - process.taken - process.hand
    while q.ring >= 0 and room > 0:
        take_in_hand(w, process, leave(w, q))
        room -= 1


cdef void begin(World* w, int index, double now) noexcept nogil:
    """The message that is the first in hand is to be sent in the next round."""
    cdef Process* process = &w.processes[index]
    cdef int message = process.hand_first
    process.hand_first = w.next[message]
    process.hand -= 1
    w.taken_at[message] = now
    w.process[message] = index
    w.state[message] = TO_SEND
    process.taken += 1
    add(w, process, message)


cdef void feed_limited(World* w, int index, double now) noexcept nogil:
    """A process sends what has a slot whose time has come, and asks for more slots."""
    cdef Process* process = &w.processes[index]
    cdef Queue* q = &w.of_queue[process.queue]
    cdef double at, again = 0
    cdef int message
    while process.hand and process.taken < q.concurrency and w.send_at[process.hand_first] <= now:
        begin(w, index, now)
    while q.ring >= 0 and reads(w, process, q):
        at = slot(w, process.queue, now, &again)
        if at < 0:
            if not q.wakes:
                q.wakes = True
                push(&w.heap, again, event(SLOT, process.queue))
            break
        message = leave(w, q)
        w.send_at[message] = at
        take_in_hand(w, process, message)
        if process.hand == 1 and at <= now and process.taken < q.concurrency:
            begin(w, index, now)
        else:
            push(&w.heap, at, event(SEND, index))


cdef void feed(World* w, int index, double now) noexcept nogil:
    """A process reads, sends what it may, and begins a round when there is anything to do."""
    cdef Process* process = &w.processes[index]
    cdef Queue* q = &w.of_queue[process.queue]
    if w.slot_s:
        feed_limited(w, index, now)
    else:
        if reads(w, process, q):
            read(w, process, q)
        while process.hand and process.taken < q.concurrency:
            w.send_at[process.hand_first] = now
            begin(w, index, now)
    if process.count and not process.running:
        begin_round(w, index, now)


cdef void feed_idle(World* w, int queue, double now) noexcept nogil:
    cdef Queue* q = &w.of_queue[queue]
    cdef int n, index = q.turn
    for n in range(q.end - q.begin):
        if q.ring < 0 or q.wakes:
            break
        index = index + 1 if index + 1 < q.end else q.begin
        if not w.processes[index].running and reads(w, &w.processes[index], q):
            feed(w, index, now)
            q.turn = index


cdef void answered(World* w, int message, double now) noexcept nogil:
    """The round of a message's answer is over: it is counted, or waits to be tried again."""
    cdef Process* process = &w.processes[w.process[message]]
    cdef Queue* q = &w.of_queue[process.queue]
    cdef double latency
    cdef Py_ssize_t bin = 0
    process.taken -= 1
    q.held_s += now - w.taken_at[message]
    if w.state[message] == FAILED:
        w.state[message] = WAITS
        latency = q.backoff_s * (1 << (w.tries[message] if w.tries[message] < 6 else 6))
        w.tries[message] += 1 if w.tries[message] < 200 else 0
        push(&w.heap, now + latency * (0.5 + uniform(w) / 2), event(RETRY, message))
        return
    w.state[message] = DONE
    if w.arrived[message] >= w.counted_from:
        latency = now - w.arrived[message] + w.inner[<Py_ssize_t>(uniform(w) * w.inner_size)]
        if latency > FIRST_S:
            bin = <Py_ssize_t>(log(latency / FIRST_S) * PER_BIN) + 1
        w.bins[process.queue][bin if bin < BIN_COUNT else BIN_COUNT - 1] += 1


cdef void end_round(World* w, int index, double now) noexcept nogil:
    """What the round was for takes effect: messages are sent, answers are acted upon. Then the next round."""
    cdef Process* process = &w.processes[index]
    cdef int following, message = process.now_first
    cdef double at
    while message >= 0:
        following = w.next[message]
        if w.state[message] == TO_SEND:
            at = w.send_at[message] if w.send_at[message] > now else now
            push(&w.heap, at + answer(w, process.queue, message), event(ANSWER, message))
        else:
            answered(w, message, now)
        message = following
    process.running = False
    feed(w, index, now)


cdef void die(World* w, int index, double now) noexcept nogil:
    """A process is killed: what it had in hand is left, in the order in which it arrived."""
    cdef Process* process = &w.processes[index]
    cdef Queue* q = &w.of_queue[process.queue]
    cdef int message, last = -1
    cdef size_t place
    if process.dead:
        return
    while process.hand:
        message = process.hand_first
        process.hand_first = w.next[message]
        process.hand -= 1
        w.process[message], w.state[message], w.taken_at[message] = index, TO_SEND, now
    # Nothing that was to happen in it happens.
    for place in range(w.heap.size):
        message = <int>(w.heap.events[place].what >> 4)
        if w.heap.events[place].what & 15 == ANSWER and w.process[message] == index:
            w.heap.events[place].what = NOTHING
        elif w.heap.events[place].what == event(ROUND, index):
            w.heap.events[place].what = NOTHING
    process.left_first, process.left = -1, 0
    for message in range(w.messages):
        if w.process[message] == index and TO_SEND <= w.state[message] <= FAILED:
            q.held_s += now - w.taken_at[message]
            w.state[message], w.next[message] = WAITS, -1
            if last < 0:
                process.left_first = message
            else:
                w.next[last] = message
            last = message
            process.left += 1
    process.taken, process.count, process.running, process.dead = 0, 0, False, True
    push(&w.heap, now + w.replaced_s, event(BIRTH, index))
    push(&w.heap, now + w.fenced_s, event(FENCE, index))


cdef void fence(World* w, int index, double now) noexcept nogil:
    """What a dead process left can be taken over from now on: each one that lives looks within `look_s`."""
    cdef Process* process = &w.processes[index]
    cdef Queue* q = &w.of_queue[process.queue]
    cdef int n
    cdef double at
    if not process.left:
        return
    if q.left:
        w.next[q.left_last] = process.left_first
    else:
        q.left_first = process.left_first
    q.left += process.left
    q.left_last = process.left_first
    while w.next[q.left_last] >= 0:
        q.left_last = w.next[q.left_last]
    process.left = 0
    for n in range(q.begin, q.end):
        if not w.processes[n].dead:
            # One that was born lately has looked then, and does so at even distances.
            at = w.processes[n].born
            at = now + w.look_s * uniform(w) if at < 0 else at + w.look_s * (floor((now - at) / w.look_s) + 1)
            push(&w.heap, at, event(LOOK, n))


cdef void look(World* w, int index, double now) noexcept nogil:
    """A process takes over what it has room for, and looks again while there is more."""
    cdef Process* process = &w.processes[index]
    cdef Queue* q = &w.of_queue[process.queue]
    cdef int message, room
    if process.dead or not q.left:
        return
    room = q.left if w.slot_s else 2 * q.concurrency + q.ahead - process.taken - process.hand
    while q.left and room > 0:
        message = q.left_first
        q.left_first = w.next[message]
        q.left -= 1
        room -= 1
        if w.slot_s:
            enter(w, q, message)
        else:
            take_in_hand(w, process, message)
    if q.left:
        push(&w.heap, now + w.again_s, event(LOOK, index))
    if not process.running:
        feed(w, index, now)


cdef void happen(World* w, int kind, int index, double now) noexcept nogil:
    cdef int process
    if kind == ANSWER:
        process = w.process[index]
        add(w, &w.processes[process], index)
        if not w.processes[process].running:
            begin_round(w, process, now)
    elif kind == ROUND:
        end_round(w, index, now)
    elif kind == SLOT:
        w.of_queue[index].wakes = False
        feed_idle(w, index, now)
    elif kind == SEND:
        if not w.processes[index].running:
            feed(w, index, now)
    elif kind == DEATH:
        die(w, index, now)
    elif kind == BIRTH:
        w.processes[index].dead, w.processes[index].born = False, now
        look(w, index, now)
        feed_idle(w, w.processes[index].queue, now)
    elif kind == FENCE:
        fence(w, index, now)
    elif kind == LOOK:
        look(w, index, now)
    elif kind == RETRY:
        enter(w, &w.of_queue[w.queues[w.organisation[index]]], index)
        feed_idle(w, w.queues[w.organisation[index]], now)


def arrive(const double[::1] sums, double seconds, uint64_t seed):
    """See `engine.capacity._simulate.pyi`."""
    cdef Py_ssize_t room = <Py_ssize_t>(sums[sums.shape[0] - 1] * seconds * 1.05) + 1000
    cdef Py_ssize_t count = 0, low, high, middle
    cdef c_array.array times = c_array.clone(array("d"), room, False)
    cdef c_array.array chosen = c_array.clone(array("i"), room, False)
    cdef double* at = times.data.as_doubles
    cdef int* which = chosen.data.as_ints
    cdef double now = 0, whole = sums[sums.shape[0] - 1], wanted
    cdef uint64_t state = seed * 2 + 1
    # The first numbers of a small seed are small.
    for low in range(16):
        draw(&state)
    with nogil:
        while count < room:
            now -= log(1 - draw(&state)) / whole
            if now >= seconds:
                break
            wanted = draw(&state) * whole
            low, high = 0, sums.shape[0] - 1
            while low < high:
                middle = (low + high) >> 1
                if sums[middle] > wanted:
                    high = middle
                else:
                    low = middle + 1
            at[count], which[count] = now, <int>low
            count += 1
    c_array.resize(times, count)
    c_array.resize(chosen, count)
    return times, chosen


cdef void run(World* w, Py_ssize_t bursts, const double* times, const int* organisations, const int* sizes,
              double* end) noexcept nogil:
    """All bursts, and all events that follow from them."""
    cdef Py_ssize_t burst = 0
    cdef int n, message = 0, queue
    cdef Event next
    while not w.heap.broken:
        if burst < bursts and (w.heap.size == 0 or times[burst] <= w.heap.events[0].at):
            end[0] = times[burst]
            queue = w.queues[organisations[burst]]
            for n in range(sizes[burst]):
                w.arrived[message] = times[burst]
                w.organisation[message] = organisations[burst]
                enter(w, &w.of_queue[queue], message)
                message += 1
            feed_idle(w, queue, times[burst])
            burst += 1
        elif w.heap.size:
            next = pop(&w.heap)
            end[0] = next.at
            happen(w, next.what & 15, <int>(next.what >> 4), next.at)
        else:
            break


def simulate(
    const double[::1] burst_times, const int[::1] burst_organisations, const int[::1] burst_sizes,
    const int[::1] queues, tuple processes, tuple concurrency, tuple ahead, tuple worth, tuple round_s,
    tuple event_s, tuple backoff_s, tuple usual_s,
    const double[::1] express_answers, const double[::1] normal_answers, const double[::1] given,
    const double[::1] inner,
    double slot_s, double share, double horizon_s, double segments, double failed, double counted_from,
    uint64_t seed, int64_t[::1] express_bins, int64_t[::1] normal_bins,
    tuple deaths, tuple recovery_s,
):
    """See `engine.capacity._simulate.pyi`."""
    cdef World w
    cdef int n = 0, queue, index
    cdef Py_ssize_t total = sum(burst_sizes), bursts = burst_times.shape[0]
    cdef double end = 0
    cdef Queue* q
    if total >= 1 << 29 or min(express_bins.shape[0], normal_bins.shape[0]) < BINS:
        raise ValueError("too many messages, or too few bins")
    w.random, w.failed, w.segments, w.counted_from = seed * 2 + 1, failed, segments, counted_from
    w.slot_s, w.share, w.horizon_s, w.tail, w.kept = slot_s, share, horizon_s, 0, 0
    w.queues, w.inner, w.inner_size = &queues[0], &inner[0], inner.shape[0]
    w.answers[0], w.answers[1], w.sent = &express_answers[0], &normal_answers[0], 0
    w.answers_size[0], w.answers_size[1] = express_answers.shape[0], normal_answers.shape[0]
    w.given_size, w.given = given.shape[0], &given[0] if given.shape[0] else NULL
    w.bins[0], w.bins[1] = &express_bins[0], &normal_bins[0]
    w.messages, (w.replaced_s, w.fenced_s, w.look_s, w.again_s) = <int>total, recovery_s
    try:
        if not allocate(&w, total, queues.shape[0], processes[0] + processes[1]):
            raise MemoryError
        for queue in range(2):
            q = &w.of_queue[queue]
            q.ahead, q.worth = ahead[queue], worth[queue]
            q.concurrency, q.wakes, q.busy_s, q.held_s = concurrency[queue], False, 0, 0
            q.begin, q.end, q.turn, q.ring = n, n + processes[queue], n, -1
            q.round_s, q.event_s, q.backoff_s = round_s[queue], event_s[queue], backoff_s[queue]
            q.usual_s, q.left = usual_s[queue], 0
            for index in range(q.begin, q.end):
                w.processes[index].queue, w.processes[index].born = queue, -1
            n = q.end
        for index in range(<int>queues.shape[0]):
            w.first[index] = w.last[index] = -1
        for at, index in deaths:
            push(&w.heap, at, event(DEATH, index))
        with nogil:
            run(&w, bursts, &burst_times[0], &burst_organisations[0], &burst_sizes[0], &end)
        if w.heap.broken:
            raise MemoryError
        return end, (w.of_queue[0].busy_s, w.of_queue[1].busy_s), (w.of_queue[0].held_s, w.of_queue[1].held_s)
    finally:
        release(&w)
