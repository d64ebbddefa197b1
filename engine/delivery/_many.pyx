"""What is done for each message of a turn of the worker's loop, for many in one call.

Each function comes to the same as the few lines of Python that its caller would need for it. Tests say so.
"""

from cpython.dict cimport PyDict_GetItem
from cpython.object cimport PyObject

from engine._slots cimport Field, field, get

from engine.records import Entry, Message, due_at_us_of

cdef Field MESSAGE = field(Entry, "message"), DELIVERIES = field(Entry, "deliveries")
cdef Field SHARD = field(Entry, "shard")
cdef Field SEGMENTS = field(Message, "segments"), UNKNOWN = field(Message, "unknown_sends")
cdef Field EXPIRES = field(Message, "expires_at_us"), ACCEPTED = field(Message, "accepted_at_us")


def messages_of(object entries):
    return [get(entry, MESSAGE) for entry in entries]


def segments_of(object entries):
    cdef object entry, sum = 0
    for entry in entries:
        sum = sum + get(get(entry, MESSAGE), SEGMENTS)
    return sum


def take_first(object waiting, Py_ssize_t count):
    cdef object sum = 0, pair, pop = waiting.popleft
    cdef Py_ssize_t i
    cdef list taken = []
    for i in range(count):
        pair = pop()
        sum = sum + get(get((<tuple>pair)[0], MESSAGE), SEGMENTS)
        taken.append(pair)
    return taken, sum


def plain_entries(list waiting, double oldest_s, object now_us):
    cdef tuple pair
    cdef object entry, message
    cdef list found = []
    for pair in waiting:
        entry = pair[0]
        message = get(entry, MESSAGE)
        if (
            <Py_ssize_t>get(entry, DELIVERIES) != 1 or get(message, UNKNOWN) or <double>pair[1] < oldest_s
            or get(message, EXPIRES) <= now_us
        ):
            return None
        found.append(entry)
    return found


def note_begun(dict entries_by_token, dict began_s, object entries, object token, object now_s):
    cdef object entry
    for entry in entries:
        entries_by_token[token] = entry
        began_s[token] = now_s
        token = token + 1


def oldest_of(dict began_s, list tokens):
    cdef object token
    cdef long long last = -1, number
    cdef double oldest = 0.0, at
    cdef PyObject *item
    cdef bint first = True
    for token in tokens:
        number = token
        if number <= last:
            if len(set(tokens)) != len(tokens):
                return None
        last = max(last, number)
        item = PyDict_GetItem(began_s, token)
        if item is NULL:
            return None
        at = <double><object>item
        if first or at < oldest:
            oldest, first = at, False
    return None if first else oldest


def end_all(dict entries_by_token, dict began_s, list tokens, double now_s):
    cdef object token
    cdef list entries = [], took_s = []
    for token in tokens:
        took_s.append(now_s - <double>began_s.pop(token))
        entries.append(entries_by_token.pop(token))
    return entries, took_s


def ages_of(object entries, long long at_us):
    cdef object entry, message
    cdef long long since_us
    cdef list ages = []
    for entry in entries:
        message = get(entry, MESSAGE)
        since_us = get(message, ACCEPTED)
        if type(message) is not Message:
            since_us = max(since_us, <long long>due_at_us_of(message))
        ages.append(at_us - since_us)
    return ages


def count_given(object entries, dict messages, dict segments):
    cdef object entry, shard, last = None
    cdef long long count = 0, sum = 0
    for entry in entries:
        shard = get(entry, SHARD)
        if shard is not last:
            if count:
                messages[last] = messages[last] + count
                segments[last] = segments[last] + sum
            last, count, sum = shard, 0, 0
        count += 1
        sum += <long long>get(get(entry, MESSAGE), SEGMENTS)
    if count:
        messages[last] = messages[last] + count
        segments[last] = segments[last] + sum
