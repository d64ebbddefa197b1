import ctypes
import os
import platform
import struct
import subprocess
import sys
import threading

import pytest

from engine.hosts.cpu_turns import FIRST_NICE, LATER_NICE, SLICE_NS, give_way

_SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}.get(platform.machine())
_ATTRIBUTES = struct.Struct("<IIQiIQQQ")
_KERNEL = tuple(int(part) for part in os.uname().release.split(".")[:2] if part.isdigit())
# What a process prints that has taken short turns, and then a program that it starts, and a thread.
_PROGRAM = """
import os, sys
from engine.hosts.cpu_turns import take_short_turns
from tests.hosts.test_cpu_turns import slice_ns
if sys.argv[1] == "take":
    os.setpriority(os.PRIO_PROCESS, 0, 5)
    take_short_turns()
    take_short_turns()
    print(slice_ns(0), os.getpriority(os.PRIO_PROCESS, 0), flush=True)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:-1], "start"])
print(slice_ns(0), flush=True)
if os.fork() == 0:
    print(slice_ns(0), flush=True)
    os._exit(0)
os.wait()
"""

# What a process prints that wants to go first: its nice value before and after. The argument: by which right.
_FIRST = """
import os, resource, sys
from engine.hosts.cpu_turns import FIRST_NICE, go_first
own = os.getpriority(os.PRIO_PROCESS, 0)
if sys.argv[1] == "limit":
    limit = 20 - own + FIRST_NICE
    try:
        resource.setrlimit(resource.RLIMIT_NICE, (limit, limit))
    except ValueError:
        sys.exit("not allowed")
if sys.argv[1] != "root":
    os.setresuid(65534, 65534, 65534)
go_first()
print(own, os.getpriority(os.PRIO_PROCESS, 0))
"""


def slice_ns(pid: int) -> int:
    """The slice of a process, nanoseconds."""
    found = ctypes.create_string_buffer(_ATTRIBUTES.size)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(ctypes.c_long(_SCHED_GETATTR or -1), pid, found, _ATTRIBUTES.size, 0) != 0:
        raise OSError(ctypes.get_errno(), "sched_getattr")
    return int(_ATTRIBUTES.unpack(found.raw)[5])


# Whether this Linux lets a process say how long its slice is.
GIVES_SLICES = _SCHED_GETATTR is not None and _KERNEL >= (6, 12)


@pytest.mark.skipif(not GIVES_SLICES, reason="this Linux gives no slices")
def test_a_process_keeps_its_short_slice_over_exec_and_what_it_starts_has_that_of_all() -> None:
    argv = [sys.executable, "-c", _PROGRAM, "take"]
    out = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    taken, nice, after_exec, of_child = map(int, out)
    assert (taken, nice, after_exec) == (SLICE_NS, 5, SLICE_NS)
    assert of_child != SLICE_NS


def test_a_thread_that_gives_way_leaves_the_others_of_its_process_as_they_are() -> None:
    nice = []

    def run() -> None:
        nice.append(os.getpriority(os.PRIO_PROCESS, 0))
        give_way()
        nice.append(os.getpriority(os.PRIO_PROCESS, 0))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert nice == [own, min(19, own + LATER_NICE)]


def test_to_let_a_thread_give_way_that_has_ended_does_nothing() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    give_way(ended.pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
@pytest.mark.parametrize(("right", "lower"), [("root", FIRST_NICE), ("limit", FIRST_NICE), ("none", 0)])
def test_who_goes_first_does_so_where_it_has_the_right_to(right: str, lower: int) -> None:
    argv = [sys.executable, "-c", _FIRST, right]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd="/")
    if done.stderr == "not allowed\n":
        pytest.skip("root may not raise a limit here")
    own, after = map(int, done.stdout.split())
    assert after == max(-20, own - lower)
