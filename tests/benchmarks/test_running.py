"""What is measured of a running engine is all that it uses."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.running import cpu_s_of

# Starts a child that uses the processor for 0.3 s, waits for it, and then for the end of its input.
PARENT = """
import subprocess, sys
code = "import time\\nwhile time.process_time() < 0.3: pass"
subprocess.run([sys.executable, "-c", code], check=True)
print("ended", flush=True)
sys.stdin.read()
"""


def test_the_processor_time_of_a_child_that_has_ended_is_counted_where_it_is_asked_for():
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        alone_s, with_child_s = cpu_s_of(parent.pid), cpu_s_of(parent.pid, ended=True)
        parent.communicate()
    assert with_child_s >= alone_s + 0.28
