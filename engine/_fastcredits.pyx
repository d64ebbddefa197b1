"""The credit map: how many units each organisation may still use here.

Theory. One open-addressing table of 24-byte entries (organisation, remaining, used),
linear probing, at most three quarters full, so that a look-up is one multiplicative
hash and nearly always one cache line. There are no tombstones: an entry stays until it
is forgotten, and then those behind it in the probe sequence move back (Knuth, The Art of
Computer Programming vol. 3, 6.4, algorithm R). The index of an entry's home is the *top*
bits of its hash, so doubling the table keeps the entries in order and is done in place:
the block is extended and walked once from its end, without a second table beside it.

`touched` lists the organisations whose `used` may have changed since the last drain, each
once: `used` is UNTOUCHED exactly while the organisation is not on the list. The list
always has room for every entry, so `reserve` never allocates and cannot fail half way.

Conservation. grant adds to remaining; reserve moves units from remaining to used; release
moves them back; take removes from remaining; drain reports used and starts it at zero.
Hence, per organisation: granted - taken = remaining + used + everything drained.
remaining is never negative; used is, when units drained before are released after.

The map belongs to one thread and holds nothing but integers. A process that dies takes
it along; the ledger books the rest back when it fences the holder.
"""

cimport cython
from cpython.buffer cimport PyObject_CheckBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.long cimport PyLong_AsLongLong, PyLong_Check
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from cpython.memoryview cimport PyMemoryView_GET_BUFFER
from libc.stdint cimport INT64_MAX, int64_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    /* In `used`: not on the list of touched organisations. */
    #define UNTOUCHED INT64_MIN

    /* The value of an int below 2 ** 60, else *known = 0. In line, because a call into the
       interpreter costs as much as the look-up. */
    static inline int64_t engine_small_int(PyObject *value, int *known) {
        *known = 1;
        if (PyLong_CheckExact(value)) {
    #if PY_VERSION_HEX < 0x030C0000
            const digit *digits = ((PyLongObject *)value)->ob_digit;
            if (Py_SIZE(value) == 1) return digits[0];
            if (Py_SIZE(value) == 2) return digits[0] | (int64_t)digits[1] << PyLong_SHIFT;
    #else
            if (PyUnstable_Long_IsCompact((PyLongObject *)value))
                return PyUnstable_Long_CompactValue((PyLongObject *)value);
    #endif
        }
        *known = 0;
        return 0;
    }
    """
    const int64_t UNTOUCHED
    void __builtin_prefetch(void *address, int to_write) noexcept nogil
    int64_t engine_small_int(object value, int *known) noexcept

cdef enum:
    FREE = -1  # in `remaining`: no organisation here
    BITS_MIN = 6  # a new table has 2 ** 6 entries
    STACK_ITEMS = 512  # batches up to this long are unpacked on the C stack
    # A larger table does not fit the second-level cache: a batch fetches ahead.
    PREFETCH_ENTRIES = 32768
    PREFETCH_AHEAD = 8


cdef struct Entry:
    int64_t organisation_id
    int64_t remaining
    int64_t used


cdef struct Table:
    Entry *entries
    int64_t *touched
    # Capacity minus one; the capacity is a power of two.
    size_t mask
    # 64 minus the binary logarithm of the capacity.
    int shift
    size_t size
    size_t size_max
    size_t touched_count


cdef inline size_t _home(Table *table, int64_t organisation_id) noexcept nogil:
    # Two rounds: after one, ids at a Fibonacci distance from each other still cluster.
    cdef uint64_t x = <uint64_t>organisation_id * <uint64_t>0x9E3779B97F4A7C15
    x = (x ^ (x >> 32)) * <uint64_t>0xD6E8FEB86659FD93
    return <size_t>(x >> table.shift)


cdef inline Entry *_find(Table *table, int64_t organisation_id) noexcept nogil:
    """Its entry, or the free one where the search for it ends."""
    cdef size_t i = _home(table, organisation_id)
    cdef Entry *entry = table.entries + i
    while entry.organisation_id != organisation_id and entry.remaining >= 0:
        i = (i + 1) & table.mask
        entry = table.entries + i
    return entry


cdef inline void _touch(Table *table, Entry *entry) noexcept nogil:
    if entry.used == UNTOUCHED:
        entry.used = 0
        table.touched[table.touched_count] = entry.organisation_id
        table.touched_count += 1


cdef inline bint _reserve(Table *table, int64_t organisation_id, int64_t units) noexcept nogil:
    cdef Entry *entry = _find(table, organisation_id)
    if entry.remaining < units:  # also when it is free
        return False
    _touch(table, entry)
    entry.remaining -= units
    entry.used += units
    return True


cdef void _clear(Table *table, size_t begin, size_t end) noexcept nogil:
    cdef size_t i
    for i in range(begin, end):
        table.entries[i] = Entry(organisation_id=0, remaining=FREE, used=UNTOUCHED)


cdef int _resize(Table *table, int bits) except -1:
    """Give it room for 2 ** bits entries. After MemoryError it is as good as before."""
    cdef size_t capacity = <size_t>1 << bits
    cdef size_t size_max = capacity // 4 * 3
    cdef void *touched = PyMem_RawRealloc(table.touched, size_max * sizeof(int64_t))
    cdef void *entries
    if touched != NULL:
        table.touched = <int64_t *>touched
        table.size_max = min(table.size_max, size_max)
        entries = PyMem_RawRealloc(table.entries, capacity * sizeof(Entry))
        if entries != NULL:
            table.entries = <Entry *>entries
            table.mask, table.shift, table.size_max = capacity - 1, 64 - bits, size_max
            return 0
    raise MemoryError


cdef int _grow(Table *table) except -1:
    """Double the capacity in place."""
    cdef size_t before = table.mask + 1
    cdef size_t capacity = before * 2
    # Room for all, so that the walk cannot fail; what is not written to is not resident.
    cdef Entry *aside = <Entry *>PyMem_RawMalloc(table.size * sizeof(Entry))
    cdef size_t i, at, aside_count = 0
    cdef Entry entry
    if aside == NULL:
        raise MemoryError
    try:
        _resize(table, 65 - table.shift)
        _clear(table, before, capacity)
        # An entry's new home is twice its old one or the next, so that going down from the
        # end nearly every one moves into the part already walked; the others wait aside.
        for i in range(before, 0, -1):
            entry = table.entries[i - 1]
            if entry.remaining < 0:
                continue
            _clear(table, i - 1, i)
            at = _home(table, entry.organisation_id)
            if at < i - 1:
                at = capacity
            while at < capacity and table.entries[at].remaining >= 0:
                at += 1
            if at < capacity:
                table.entries[at] = entry
            else:
                aside[aside_count] = entry
                aside_count += 1
        for i in range(aside_count):
            _find(table, aside[i].organisation_id)[0] = aside[i]
    finally:
        PyMem_RawFree(aside)
    return 0


cdef Entry *_enter(Table *table, int64_t organisation_id) except NULL:
    """Its entry, made when there is none."""
    cdef Entry *entry = _find(table, organisation_id)
    if entry.remaining < 0:
        if table.size == table.size_max:
            _grow(table)
            entry = _find(table, organisation_id)
        entry.organisation_id = organisation_id
        entry.remaining = 0
        table.size += 1
    return entry


cdef void _remove(Table *table, Entry *entry) noexcept nogil:
    """Free the entry and move back those that its place kept from their homes."""
    cdef size_t hole = entry - table.entries
    cdef size_t home, i = hole
    while True:
        i = (i + 1) & table.mask
        if table.entries[i].remaining < 0:
            break
        home = _home(table, table.entries[i].organisation_id)
        # It may move to the hole unless its home lies cyclically behind the hole.
        if ((i - home) & table.mask) >= ((i - hole) & table.mask):
            table.entries[hole] = table.entries[i]
            hole = i
    _clear(table, hole, hole + 1)
    table.size -= 1


cdef void _reserve_all(
    Table *table, const int64_t *organisation_ids, const int64_t *units, char *verdicts, size_t count
) noexcept nogil:
    cdef size_t i = 0
    if table.mask >= PREFETCH_ENTRIES:
        while i + PREFETCH_AHEAD < count:
            __builtin_prefetch(table.entries + _home(table, organisation_ids[i + PREFETCH_AHEAD]), 1)
            verdicts[i] = _reserve(table, organisation_ids[i], units[i])
            i += 1
    while i < count:
        verdicts[i] = _reserve(table, organisation_ids[i], units[i])
        i += 1


cdef int64_t _other_int(object value) except? -1:
    # Not by way of __int__, which a float has, nor of any other code of the value's.
    if not PyLong_Check(value):
        raise TypeError(f"An integer is needed, not {type(value).__name__}.")
    return PyLong_AsLongLong(value)


cdef inline int64_t _int(object value) except? -1:
    cdef int known
    cdef int64_t small = engine_small_int(value, &known)
    return small if known else _other_int(value)


cdef inline int _need_positive(int64_t units) except -1:
    if units < 1:
        raise ValueError(f"units must be at least 1, not {units}.")
    return 0


cdef object _batch(object source):
    """The integers as a list or as a memoryview, whose lengths are what they say."""
    if type(source) is list:
        return source
    if not PyObject_CheckBuffer(source):
        return list(source)
    view = memoryview(source)
    if view.format not in ("q", "l") or view.itemsize != 8 or view.ndim != 1 or not view.c_contiguous:
        raise TypeError("A batch buffer holds 64-bit signed integers, as array('q') does.")
    return view


cdef int _unpack(object batch, int64_t *target, Py_ssize_t count) except -1:
    cdef Py_ssize_t i
    if type(batch) is list:
        for i in range(count):
            target[i] = _int((<list>batch)[i])
    else:
        memcpy(target, PyMemoryView_GET_BUFFER(batch).buf, <size_t>count * sizeof(int64_t))
    return 0


@cython.final
cdef class CreditMap:
    cdef Table table

    def __cinit__(self):
        _resize(&self.table, BITS_MIN)
        _clear(&self.table, 0, self.table.mask + 1)

    def __dealloc__(self):
        PyMem_RawFree(self.table.entries)
        PyMem_RawFree(self.table.touched)

    def __len__(self):
        return self.table.size

    def __contains__(self, organisation_id):
        return _find(&self.table, _int(organisation_id)).remaining >= 0

    def grant(self, organisation_id, units):
        cdef int64_t organisation = _int(organisation_id)
        cdef int64_t amount = _int(units)
        cdef Entry *entry
        if amount < 0:
            raise ValueError(f"units must be at least 0, not {amount}.")
        entry = _enter(&self.table, organisation)
        # Bounding the sum here keeps every later reserve from overflowing `used`.
        if amount > INT64_MAX - max(entry.used, 0) - entry.remaining:
            raise OverflowError(f"Organisation {organisation} would hold more than {INT64_MAX} units.")
        entry.remaining += amount

    def reserve(self, organisation_id, units):
        cdef int64_t amount = _int(units)
        _need_positive(amount)
        return _reserve(&self.table, _int(organisation_id), amount)

    def release(self, organisation_id, units):
        cdef int64_t organisation = _int(organisation_id)
        cdef int64_t used, amount = _int(units)
        cdef Entry *entry
        _need_positive(amount)
        entry = _find(&self.table, organisation)
        used = 0 if entry.used == UNTOUCHED else entry.used
        if amount > INT64_MAX - max(entry.remaining, 0) or used < amount - INT64_MAX:
            raise OverflowError(f"Organisation {organisation} would hold more than {INT64_MAX} units.")
        entry = _enter(&self.table, organisation)
        _touch(&self.table, entry)
        entry.remaining += amount
        entry.used -= amount

    def remaining(self, organisation_id):
        return max(_find(&self.table, _int(organisation_id)).remaining, 0)

    def take(self, organisation_id):
        cdef Entry *entry = _find(&self.table, _int(organisation_id))
        cdef int64_t units = max(entry.remaining, 0)
        entry.remaining = min(entry.remaining, 0)
        return units

    def reserve_batch(self, organisation_ids, units):
        cdef int64_t on_stack[2 * STACK_ITEMS]
        cdef int64_t *room = on_stack
        cdef object organisations = _batch(organisation_ids)
        cdef object amounts = _batch(units)
        cdef Py_ssize_t i, count = len(organisations)
        cdef int64_t least = 1
        if len(amounts) != count:
            raise ValueError(f"{count} organisations, but {len(amounts)} amounts.")
        if count > STACK_ITEMS:
            room = <int64_t *>PyMem_RawMalloc(<size_t>count * 2 * sizeof(int64_t))
            if room == NULL:
                raise MemoryError
        try:
            _unpack(organisations, room, count)
            _unpack(amounts, room + count, count)
            for i in range(count):
                least = min(least, room[count + i])
            _need_positive(least)
            verdicts = PyBytes_FromStringAndSize(NULL, count)
            # Nothing below can fail: a batch is applied whole or not at all.
            _reserve_all(&self.table, room, room + count, PyBytes_AS_STRING(verdicts), <size_t>count)
            return verdicts
        finally:
            if room != on_stack:
                PyMem_RawFree(room)

    def drain(self):
        cdef Table *table = &self.table
        cdef Entry *entry
        cdef size_t i
        drained = []
        for i in range(table.touched_count):
            entry = _find(table, table.touched[i])
            if entry.used != 0:
                drained.append((entry.organisation_id, entry.used))
        # Only now, when no more memory is needed, is it forgotten here.
        for i in range(table.touched_count):
            _find(table, table.touched[i]).used = UNTOUCHED
        table.touched_count = 0
        return drained

    def items(self):
        cdef Entry *entry
        cdef size_t i
        found = []
        for i in range(self.table.mask + 1):
            entry = self.table.entries + i
            if entry.remaining >= 0:
                found.append((entry.organisation_id, entry.remaining))
        return found

    def drop(self):
        dropped = self.items()
        _clear(&self.table, 0, self.table.mask + 1)
        self.table.size = self.table.touched_count = 0
        _resize(&self.table, BITS_MIN)
        return dropped

    def forget(self, organisation_id):
        cdef size_t i = 0
        cdef Table *table = &self.table
        cdef Entry *entry = _find(table, _int(organisation_id))
        if entry.remaining != 0 or not (entry.used == 0 or entry.used == UNTOUCHED):
            return False
        if entry.used == 0:  # reserved and released since the last drain: a rare walk
            while table.touched[i] != entry.organisation_id:
                i += 1
            table.touched_count -= 1
            table.touched[i] = table.touched[table.touched_count]
        _remove(table, entry)
        return True

    @property
    def memory_bytes(self):
        cdef Table *table = &self.table
        return (table.mask + 1) * sizeof(Entry) + table.size_max * sizeof(int64_t) + sizeof(Table)
