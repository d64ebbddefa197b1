"""Programs of this project as processes of their own that start at once: `warm.Popen` and `warm.run`.

Python takes more than a second of a core to import the engine, and tests start hundreds of processes. So
`python -m MODULE` is forked from a process that has imported everything, and is otherwise as if it had been
executed: a child of this process with the descriptors, the environment, the folder and the session that
`subprocess` would give it, and nothing else open. Tests of the start itself use `subprocess`.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import runpy
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import setproctitle

ROOT = Path(__file__).resolve().parents[1]
# What programs import, here and nowhere else.
_MODULES = ["supervisor.cli", "supervisor.up", "engine.boot"]
_PR_SET_CHILD_SUBREAPER = 36
_MESSAGE_BYTES_MAX = 1 << 20
# Above the numbers that descriptors are given.
_HIGH = 500
# Of several threads one at a time.
_starting = threading.Lock()
_libc = ctypes.CDLL(None, use_errno=True)


class Popen(subprocess.Popen[Any]):
    """`subprocess.Popen` of `[sys.executable, "-m", MODULE, *arguments]`."""

    def _execute_child(self, args: Any, *more: Any) -> None:
        (_, _, _, pass_fds, cwd, env, _, _, _, *pipes, _, _, _, _, _, start_new_session, _) = more
        p2cread, _, _, c2pwrite, _, errwrite = pipes
        assert list(args[:2]) == [sys.executable, "-m"], args
        own = (p2cread, c2pwrite, errwrite)
        fds = [n if fd == -1 else fd for n, fd in enumerate(own)]
        start = {
            "module": args[2],
            "arguments": list(args[3:]),
            "environment": dict(os.environ if env is None else env),
            "folder": str(cwd or Path.cwd()),
            "session": bool(start_new_session),
            "fds": [0, 1, 2, *pass_fds],
        }
        self.pid = _started(start, [*fds, *pass_fds])
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def run(
    argv: Sequence[object],
    *,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """`subprocess.run` of such a program."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    given = options.pop("input", None)
    if given is not None:
        options["stdin"] = subprocess.PIPE
    with Popen([str(argument) for argument in argv], **options) as process:
        try:
            out, err = process.communicate(given, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


def _started(start: Mapping[str, Any], fds: Sequence[int]) -> int:
    """The id of the new process, a child of this one."""
    with _starting:
        return _started_by(_template()[0], {**start, "parent": os.getpid()}, fds)


def _started_by(control: socket.socket, start: Mapping[str, Any], fds: Sequence[int]) -> int:
    # Who is forked there is orphaned at once, and then a child of the nearest process that takes orphans.
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        socket.send_fds(control, [json.dumps(start).encode()], fds)
        answer = control.recv(100)
        assert answer, "the process to fork from has ended"
        return int(answer)
    finally:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@cache
def _template() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """The process to fork from, and where it is asked. It ends when this one has."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for one in (ours, its):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MESSAGE_BYTES_MAX)
    its_fd = its.fileno()
    process = subprocess.Popen([sys.executable, "-m", "tests.warm", str(its_fd)], cwd=ROOT, pass_fds=[its_fd])
    its.close()
    return ours, process


def _quickly(code: list[Any]) -> None:
    """End without taking the interpreter apart, which takes as long as a command."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
        if code and isinstance(code[0], int | None):
            os._exit((code[0] or 0) & 0xFF)


def _serve(control: socket.socket) -> dict[str, Any]:
    """Fork whenever somebody asks. Returns in the new process, with what it is to be."""
    for module in _MODULES:
        importlib.import_module(module)
    importlib.import_module("supervisor.cli").command()
    # It finds the place of the command line in memory as long as the environment is the first one.
    setproctitle.setproctitle("tests.warm")
    gc.collect()
    # What is here stays as it is, and the pages are shared.
    gc.freeze()
    while True:
        message, fds, _, _ = socket.recv_fds(control, _MESSAGE_BYTES_MAX, 100)
        if not message:
            os._exit(0)
        between = os.fork()
        if between == 0:
            if os.fork():
                os._exit(0)
            return _begin(json.loads(message), fds, control)
        os.waitpid(between, 0)
        for fd in fds:
            os.close(fd)


def _begin(start: dict[str, Any], fds: Sequence[int], control: socket.socket) -> dict[str, Any]:
    """Be as if executed."""
    while os.getppid() != start["parent"]:
        time.sleep(0.0005)
    if start["session"]:
        os.setsid()
    control.send(str(os.getpid()).encode())
    control.close()
    high = []
    for fd in fds:
        high.append(fcntl.fcntl(fd, fcntl.F_DUPFD, _HIGH))
        os.close(fd)
    for fd, number in zip(high, start["fds"], strict=True):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(start["folder"])
    os.environ.clear()
    os.environ.update(start["environment"])
    setproctitle.setproctitle(" ".join([sys.executable, "-m", start["module"], *start["arguments"]]))
    return start


def _main() -> None:
    it = _serve(socket.socket(fileno=int(sys.argv[1])))
    code: list[Any] = []
    # The first that is registered is the last that is called.
    atexit.register(_quickly, code)
    sys.argv = [it["module"], *it["arguments"]]
    try:
        runpy.run_module(it["module"], run_name="__main__", alter_sys=True)
        code.append(0)
    except SystemExit as e:
        code.append(e.code)
        raise


if __name__ == "__main__":
    _main()
