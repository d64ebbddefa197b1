"""Whose turn it is on the CPU: short turns for whom others wait for, and late ones for what can wait.

Where more processes want to compute than there are cores, Linux gives a core to the one whose *slice* should
end first (EEVDF), and takes a core away only for one whose slice ends sooner. A slice is some milliseconds
long. So a process that answers within microseconds waits for the slices of those that compute all the time.
With a short slice of its own it has a core as soon as it wakes. In all it is given no more of a core's time.

Linux takes a slice from 6.12 on, from 0.1 ms to 100 ms, without any right. Older ones take the call and keep
their own slice. Where there is no such call, nothing changes.

What can wait (`give_way`) has a higher nice value. Where there are cores enough it makes no difference; where
not, a thread with the nice value 10 has a tenth of the time of one with 0, and one with 5 a third. That for
which everybody waits, Redis, has a lower one (`go_first`): with a short slice alone it has a core as soon as
it wakes, but no more than its part of one. To lower it takes a right: CAP_SYS_NICE, which root has, or a
limit that allows it (`ulimit -e`, LimitNICE=). Without one, Redis has the nice value of the others. Linux
weighs nice values within a session where it groups processes by session (`kernel.sched_autogroup_enabled`),
so what is weighed against each other belongs to one session.

Documentation: sched_setattr(2); getrlimit(2), RLIMIT_NICE; Linux, scheduler/sched-eevdf.rst, and
`__setparam_fair` in kernel/sched/syscalls.c; sched(7), "The nice value and group scheduling".
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct

# The shortest that Linux takes, nanoseconds.
SLICE_NS = 100_000
# How much is added to the nice value of what can wait.
LATER_NICE = 10
# How much is taken from the nice value of that for which everybody waits: it weighs twice as much then.
FIRST_NICE = 3
# The number of the call, by machine (arch/x86/entry/syscalls/syscall_64.tbl,
# include/uapi/asm-generic/unistd.h).
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}.get(platform.machine())
# linux/sched.h. What this process starts has slices as others.
_RESET_ON_FORK = 0x01
# struct sched_attr: its size, the policy, flags, the nice value, a priority, the slice, two other times.
_ATTRIBUTES = struct.Struct("<IIQiIQQQ")
# Loaded here: between fork and exec only system calls are made.
_libc = ctypes.CDLL(None, use_errno=True)


def take_short_turns() -> None:
    """Let this thread have short slices from now on, where Linux gives them.

    What it starts does not inherit them, and neither a nice value below 0.
    """
    if _SCHED_SETATTR is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, _RESET_ON_FORK, nice, 0, SLICE_NS, 0, 0)
    # Refused in some containers: then it has the slices of all.
    _libc.syscall(ctypes.c_long(_SCHED_SETATTR), ctypes.c_int(0), attributes, ctypes.c_uint(0))


def go_first() -> None:
    """Let this thread compute before the others where cores are few: its nice value falls by `FIRST_NICE`.

    What it starts from then on does so too, unless it has short turns: then Linux gives that the nice value
    0. Without the right to it, nothing changes.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) - FIRST_NICE)


def give_way(thread_id: int = 0, by: int = LATER_NICE) -> None:
    """Let this thread, or that one, compute after the others where cores are few: its nice value rises `by`.

    Threads and processes that it starts from then on do so too, and it cannot be undone without a right.
    A thread that has ended meanwhile is passed over, and nothing changes where a container refuses the call.
    """
    with contextlib.suppress(OSError):
        nice = os.getpriority(os.PRIO_PROCESS, thread_id) + by
        os.setpriority(os.PRIO_PROCESS, thread_id, nice)
