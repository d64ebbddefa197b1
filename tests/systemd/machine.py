"""A systemd of its own as process 1 of namespaces, on the files of this machine.

It has its own processes, mounts and control groups. What it writes to /etc and /var goes to a folder of
the test; the network is that of this machine. The service is installed in it as on a server, by
`make install-service`. It needs root, overlayfs and a control group of version 2 that is writable.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
from pathlib import Path

from tests.system.client import eventually

ROOT = Path(__file__).parents[2]
_CGROUPS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
_PROGRAMS = ("unshare", "nsenter", "systemctl", "systemd-sysusers", "systemd-tmpfiles", "journalctl")
_numbers = itertools.count(1)
_APART = (
    "--mount",
    "--pid",
    "--cgroup",
    "--ipc",
    "--uts",
    "--fork",
    "--kill-child",
    "--propagation",
    "private",
)
_TARGETS = ("basic", "sysinit", "shutdown", "sockets", "multi-user", "network-online", "umount")
_BASE = {
    **{f"{name}.target": "[Unit]\nDefaultDependencies=no\n" for name in _TARGETS},
    "machine.target": "[Unit]\nDefaultDependencies=no\nWants=systemd-journald.service\n",
    "systemd-journald.service": (
        "[Unit]\nDefaultDependencies=no\nRequires=systemd-journald.socket\nAfter=systemd-journald.socket\n"
        "[Service]\nType=notify\nExecStart=/lib/systemd/systemd-journald\nStandardOutput=null\n"
    ),
    "systemd-journald.socket": (
        "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=/run/systemd/journal/stdout\n"
        "ListenDatagram=/run/systemd/journal/socket\nSocketMode=0666\nPassCredentials=yes\n"
    ),
}


class Forbidden(Exception):
    """There can be no systemd in namespaces here; the text says why."""


class Machine:
    """One machine with its systemd, which runs until `stop`. Raises Forbidden where it cannot."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._group = _group()
        self.log = folder / "systemd.log"
        (folder / "base").mkdir()
        for name, text in _BASE.items():
            (folder / "base" / name).write_text(text)
        self._group.mkdir()
        program = ["unshare", *_APART, "bash", str(Path(__file__).with_name("process_1.sh")), str(folder)]
        with self.log.open("wb") as log:
            self._outside = subprocess.Popen(
                program, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=lambda: (self._group / "cgroup.procs").write_text(str(os.getpid())),
            )  # fmt: skip
        try:
            self.pid = int(eventually(self._process_1))
            eventually(lambda: self.run("systemctl", "is-system-running", check=False).stdout == "running\n")
        # Nothing may be left behind, also when the test is broken off.
        except BaseException as e:
            self.stop()
            raise Forbidden(f"systemd does not start in namespaces: {self.log.read_text()[-500:]}") from e

    def run(
        self, *command: object, check: bool = True, text_in: str | None = None, timeout_s: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as root, to its end; with `check` it must succeed."""
        enter = ["nsenter", "--target", str(self.pid), "--mount", "--pid", "--cgroup", "--ipc", "--uts", "--"]
        done = subprocess.run(
            [*enter, *map(str, command)], capture_output=True, text=True, input=text_in, check=False,
            timeout=timeout_s, cwd="/", env={"PATH": os.environ["PATH"], "COLUMNS": "120"},
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def write(self, path: str, text: str) -> None:
        """Write a file in it, and the folders above it."""
        self.run("sh", "-c", 'mkdir -p "$(dirname "$1")"; cat > "$1"', "sh", path, text_in=text)

    def show(self, unit: str, *properties: str) -> list[str]:
        """These properties of a unit."""
        shown = self.run("systemctl", "show", unit, *(f"--property={name}" for name in properties)).stdout
        values = dict(line.partition("=")[::2] for line in shown.splitlines())
        return [values[name] for name in properties]

    def journal(self, *options: str) -> str:
        """The lines of the service, or what `options` of journalctl make of them."""
        return self.run("journalctl", "--unit=smsengine.service", "--no-pager", *options).stdout

    def outer_pid(self, inner: int) -> int:
        """The process id here of the process with that id in it."""
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):
                (ids,) = [line for line in status.read_text().splitlines() if line.startswith("NSpid:")]
                if ids.split()[2:] == [str(inner)] and _same_namespace(int(ids.split()[1]), self.pid):
                    return int(ids.split()[1])
        raise ProcessLookupError(inner)

    def stop(self) -> None:
        """End it with all its processes, and leave nothing behind but the folder."""
        if (pid := self._process_1()) is not None:
            os.kill(int(pid), signal.SIGKILL)
        elif self._outside.poll() is None:
            self._outside.kill()
        self._outside.wait(20)

        def removed() -> bool:
            for group, _, _ in os.walk(self._group, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(group)
            return not self._group.exists()

        eventually(removed)

    def _process_1(self) -> str | None:
        children = Path(f"/proc/{self._outside.pid}/task/{self._outside.pid}/children")
        with contextlib.suppress(OSError):
            pids = children.read_text().split()
            return pids[0] if pids else None
        return None


def _group() -> Path:
    """A control group for it, not made yet. Raises Forbidden."""
    if os.geteuid() != 0:
        raise Forbidden("only root can make namespaces with a systemd in them")
    if missing := [name for name in _PROGRAMS if shutil.which(name) is None]:
        raise Forbidden(f"there is no {missing[0]} here")
    if "overlay" not in Path("/proc/filesystems").read_text():
        raise Forbidden("this kernel has no overlayfs")
    for root in _CGROUPS:
        if (root / "cgroup.procs").exists() and os.access(root, os.W_OK):
            return root / f"smsengine-test-{os.getpid()}-{next(_numbers)}"
    raise Forbidden("there is no writable control group of version 2")


def _same_namespace(pid: int, process_1: int) -> bool:
    return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{process_1}/ns/pid")
