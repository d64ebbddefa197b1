"""No process of a target outlives `make fuzz`, however that ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fuzz.targets import ROOT
from tests.supervisor.process.running import until

_COMMAND = (sys.executable, "-m", "tests.fuzz", "--target=smpp_pdu", "--unguided", "--minutes=5")
_SECONDS_MAX = 30.0


def _target_of(parent: int) -> int | None:
    """The process of a target once it fuzzes: it has been told what to do at SIGTERM."""
    for children in Path(f"/proc/{parent}/task").glob("*/children"):
        for child in children.read_text().split():
            if b"tests.fuzz.campaign" not in Path(f"/proc/{child}/cmdline").read_bytes():
                # Forked only: it still has what its parent does at SIGTERM.
                continue
            status = Path(f"/proc/{child}/status").read_text()
            caught = int(status.partition("SigCgt:\t")[2].partition("\n")[0], 16)
            if caught >> (signal.SIGTERM - 1) & 1:
                return int(child)
    return None


@contextmanager
def _fuzzing() -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """(`make fuzz` of one target, the process of that, a descriptor that is readable once that has ended)."""
    parent = subprocess.Popen(_COMMAND, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        child = until(lambda: _target_of(parent.pid), _SECONDS_MAX)
        ended = os.pidfd_open(child)
        try:
            yield parent, child, ended
        finally:
            if not _is_over(ended, 0):
                signal.pidfd_send_signal(ended, signal.SIGKILL)
            os.close(ended)
    finally:
        parent.kill()
        parent.wait()


def _is_over(ended: int, timeout_s: float) -> bool:
    return bool(select.select([ended], [], [], timeout_s)[0])


def test_sigterm_ends_the_targets_first() -> None:
    with _fuzzing() as (parent, _, ended):
        parent.terminate()
        assert parent.wait(_SECONDS_MAX) == 1
        assert _is_over(ended, 0)


def test_a_target_that_hangs_does_not_outlive_a_fuzzing_that_was_killed() -> None:
    with _fuzzing() as (parent, child, ended):
        os.kill(child, signal.SIGSTOP)
        parent.kill()
        assert _is_over(ended, _SECONDS_MAX)
