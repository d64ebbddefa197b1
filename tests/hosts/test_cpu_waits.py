import os
import subprocess
import sys

import pytest

from engine.hosts import cpu_waits
from engine.hosts.cpu_waits import CpuWaits

# What a process prints that computes on one core for some time, beside as many others as are named: the part
# of the time for which it waited.
_PROGRAM = """
import os, sys, time
from engine.hosts.cpu_waits import CpuWaits
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
others = [os.fork() for _ in range(int(sys.argv[1]))]
if 0 in others:
    end_s = time.monotonic() + 20
    while time.monotonic() < end_s and os.getppid() != 1:
        pass
    os._exit(0)
waits, end_s = CpuWaits(), time.monotonic() + 1.5
while time.monotonic() < end_s:
    part = waits.part(time.monotonic())
for pid in others:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
print(part)
"""

told = pytest.mark.skipif(cpu_waits.times_ns() is None, reason="the kernel does not tell")


@told
def test_a_process_beside_three_others_on_a_core_waits_for_most_of_the_time() -> None:
    program = [sys.executable, "-c", _PROGRAM, "3"]
    found = subprocess.run(program, capture_output=True, text=True, check=True, timeout=60)
    assert 0.5 < float(found.stdout) <= 1.0


@told
def test_the_part_is_looked_at_no_more_often_than_each_window(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = [(1000, 0), (2000, 1000), (3000, 1000)]
    monkeypatch.setattr(cpu_waits, "times_ns", lambda: counts.pop(0))
    waits = CpuWaits()
    assert waits.part(10.0) == 0.0
    assert waits.part(10.04) == 0.0
    assert waits.part(10.06) == pytest.approx(0.3 * 0.5)
    assert waits.part(10.1) == pytest.approx(0.15)
    assert waits.part(10.2) == pytest.approx(0.7 * 0.15)
    assert not counts


def test_where_the_kernel_does_not_tell_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(FileNotFoundError()))
    assert cpu_waits.times_ns() is None
    waits = CpuWaits()
    assert [waits.part(now_s) for now_s in (1.0, 2.0, 3.0)] == [0.0, 0.0, 0.0]
