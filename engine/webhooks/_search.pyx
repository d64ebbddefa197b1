"""Four octets among many, found by the processor's vectors: `in` looks at one octet after another."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

cdef enum:
    # So many places are looked at before it is asked whether one of them was it.
    AT_ONCE = 1024


def has_four(bytes octets, bytes four):
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(octets)
    cdef const uint8_t *wanted = <const uint8_t *>PyBytes_AS_STRING(four)
    cdef Py_ssize_t left = PyBytes_GET_SIZE(octets) - 3, some, i
    cdef uint8_t first, second, third, fourth, found
    if PyBytes_GET_SIZE(four) != 4:
        raise ValueError("Four octets are looked for.")
    first, second, third, fourth = wanted[0], wanted[1], wanted[2], wanted[3]
    while left > 0:
        some = min(left, AT_ONCE)
        found = 0
        for i in range(some):
            found |= (at[i] == first) & (at[i + 1] == second) & (at[i + 2] == third) & (at[i + 3] == fourth)
        if found:
            return True
        at += some
        left -= some
    return False
