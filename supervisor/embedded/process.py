"""Starts servers as children that die with their parent and have no more rights than they need.

When root runs the engine, a server runs as the owner of its data, which at first is `nobody`.
That user may be unable to reach the programs or the data because a directory above them is
closed (a clone in /root, mode 0700). No mode is changed then: the process keeps one capability
instead, which reads past such a mode. PostgreSQL asks with access(2), which for an ordinary user
ignores capabilities unless SECBIT_NO_SETUID_FIXUP is set (capabilities(7)); so that is set too.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError
from engine.hosts.cpu_turns import go_first, take_short_turns
from supervisor.embedded.server_dir import ServerDir

# linux/prctl.h, linux/capability.h, linux/securebits.h
_PR_SET_PDEATHSIG = 1
_PR_SET_SECUREBITS = 28
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522
_SECBIT_NO_SETUID_FIXUP = 1 << 2
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
_NAMES = {CAP_DAC_OVERRIDE: "CAP_DAC_OVERRIDE", CAP_DAC_READ_SEARCH: "CAP_DAC_READ_SEARCH"}

# A server of an earlier run has this long to end in order, seconds.
STRAY_S = 10.0
# A server that has been asked to stop is asked again after so long, seconds: by then it has begun, also where
# cores are few. Valkey ends at once, and not in order, when it is asked again before it has ended.
AGAIN_S = 3.0

# Loaded here and not in the child: between fork and exec only system calls are made.
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The user a server runs as."""

    uid: int
    gid: int
    # Capability that is kept to pass directories closed to this user; None: not needed.
    capability: int | None


def identity(data: Path, programs: Sequence[Path], folders: Sequence[Path]) -> Identity | None:
    """The user that servers run as: for root the owner of `data`, else `nobody`.

    None for an ordinary user, as whom the servers run too. `programs` must be executable and
    `folders` reachable for the user. Raises ConfigError when they are not and this process
    lacks the capability to get there.
    """
    if os.geteuid() != 0:
        return None
    uid, gid = _owner(data) or _nobody()
    closed = next((p for p in programs if not _may(p, uid, gid, 0o5)), None)
    walled = next((p for path in (*programs, *folders) if (p := _wall(path, uid, gid)) is not None), None)
    if closed is None and walled is None:
        return Identity(uid=uid, gid=gid, capability=None)
    ours = _permitted()
    # To read past a mode is enough for directories, but not to execute a closed file.
    fitting = [CAP_DAC_OVERRIDE] if closed is not None else [CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE]
    for capability in fitting:
        if ours >> capability & 1:
            return Identity(uid=uid, gid=gid, capability=capability)
    raise ConfigError(
        f"Servers do not run as root but as user id {uid} here, which cannot reach {closed or walled}, and "
        f"{_NAMES[fitting[-1]]} to get there is not available; run smsengine as an ordinary user, or "
        f"keep program and data where everybody can reach them."
    )


def _owner(data: Path) -> tuple[int, int] | None:
    """The ordinary user who owns the data already, and keeps it when root runs the engine once."""
    try:
        s = data.stat()
    except OSError:
        return None
    return (s.st_uid, s.st_gid) if s.st_uid != 0 else None


def _nobody() -> tuple[int, int]:
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError as e:
        raise ConfigError(
            "Servers do not run as root, and there is no user nobody on this machine; "
            "run smsengine as an ordinary user."
        ) from e
    return nobody.pw_uid, nobody.pw_gid


def _wall(path: Path, uid: int, gid: int) -> Path | None:
    """The first directory on the way to `path`, itself included, that this user cannot pass."""
    path = path.resolve()
    on_the_way = [*reversed(path.parents), *([path] if path.is_dir() else [])]
    return next((p for p in on_the_way if not _may(p, uid, gid, 0o1)), None)


def _may(path: Path, uid: int, gid: int, bits: int) -> bool:
    s = path.stat()
    shift = 6 if s.st_uid == uid else 3 if s.st_gid == gid else 0
    return stat.S_IMODE(s.st_mode) >> shift & bits == bits


def _permitted() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapPrm:"):
            return int(line.split()[1], 16)
    return 0


def own(path: Path, identity: Identity | None) -> None:
    """Give one path to the user that the server runs as. Raises OSError."""
    if identity is not None:
        os.chown(path, identity.uid, identity.gid, follow_symlinks=False)


def spawn(
    argv: Sequence[str],
    *,
    identity: Identity | None,
    death_signal: signal.Signals,
    cwd: Path,
    environment: Mapping[str, str] | None,
    output: int,
    pid_file: Path | None = None,
    text_in: str | None = None,
    goes_first: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a program in a process group of its own, so that Ctrl-C in the terminal does not reach it.

    It gets `death_signal` when the thread that called this ends: call it from the main
    thread. With `environment` None it has the environment of this process. `output` is the
    descriptor that its output goes to. SIGTERM is blocked in it: systemd sends one to every process
    of a unit at once, and a server is to outlive whoever needs it. Valkey and Python leave it blocked.
    PostgreSQL unblocks it; its sessions end, and it is started again for as long as the roles drain.
    `goes_first`: see `engine.hosts.cpu_turns`.
    Raises ConfigError when it cannot be started.
    """
    assert threading.current_thread() is threading.main_thread()
    try:
        child = subprocess.Popen(  # noqa: S603 - argv is built by this package
            list(argv),
            stdin=subprocess.DEVNULL if text_in is None else subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd="/",
            env=environment,
            # Not in a session of its own: see `engine.hosts.cpu_turns`.
            process_group=0,
            preexec_fn=_before_exec(
                identity, death_signal, os.getpid(), cwd, pid_file, goes_first=goes_first
            ),
        )
    except (OSError, subprocess.SubprocessError) as e:
        why = e.strerror if isinstance(e, OSError) else "the process could not take on its user"
        raise ConfigError(f"{argv[0]} cannot be started: {why}.") from e
    if text_in is not None:
        assert child.stdin is not None
        # A program that has ended already says why by its exit code.
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(text_in.encode())
            child.stdin.close()
    return child


def _before_exec(
    identity: Identity | None,
    death_signal: int,
    parent: int,
    cwd: Path,
    pid_file: Path | None,
    *,
    goes_first: bool,
) -> Callable[[], None]:
    """What the child does between fork and exec, in this order."""

    def become() -> None:
        if pid_file is not None:
            # The child writes it: a parent killed right after the fork leaves no unrecorded server.
            descriptor = os.open(pid_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.write(descriptor, b"%d\n" % os.getpid())
            os.close(descriptor)
        if goes_first:
            go_first()
            take_short_turns()
        if identity is not None:
            drop_rights(identity)
        os.chdir(cwd)
        os.umask(0o077)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGTERM])
        # Last, because a change of user clears it.
        _prctl(_PR_SET_PDEATHSIG, death_signal)
        if os.getppid() != parent:
            os._exit(1)

    return become


def drop_rights(identity: Identity) -> None:
    """Become that user for good, and keep its capability alone. Raises OSError."""
    capability = identity.capability
    if capability is not None:
        _prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP)
    os.setgroups([])
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
    if capability is not None:
        bits = 1 << capability
        # Effective, permitted, inheritable; the second half is for capabilities above 31.
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        sets = (ctypes.c_uint32 * 6)(bits, bits, bits, 0, 0, 0)
        if _libc.capset(header, sets) != 0:
            raise OSError(ctypes.get_errno(), "capset")
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)


def _prctl(option: int, *arguments: int) -> None:
    words = [ctypes.c_ulong(a) for a in (*arguments, 0, 0, 0, 0)[:4]]
    if _libc.prctl(option, *words) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def runs(pid: int, token: str) -> bool:
    """Whether that process exists and one of its arguments is or contains `token`.

    A process id is used again after its process has ended: the arguments tell whether it
    is still the server of this data directory.
    """
    try:
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(token.encode() in argument for argument in argv)


def stop_stray(place: ServerDir, token: str, how: signal.Signals) -> None:
    """Stop a server that outlived its parent: by the signal `how`, by SIGKILL after STRAY_S seconds.

    The place must be claimed, so that no living engine owns the process. Raises ConfigError
    when the process cannot be stopped.
    """
    pid = place.recorded_pid()
    if pid is None or pid == os.getpid() or not runs(pid, token):
        return
    try:
        deadline = time.monotonic() + STRAY_S
        os.kill(pid, how)
        again = time.monotonic() + AGAIN_S
        while runs(pid, token):
            now = time.monotonic()
            if now > deadline + 5.0:
                raise ConfigError(
                    f"{place.name} of an earlier run (process {pid}) does not end; end it yourself."
                )
            if now > deadline:
                os.kill(pid, signal.SIGKILL)
            elif now > again:
                os.kill(pid, how)
                again = now + AGAIN_S
            time.sleep(0.01)
    except ProcessLookupError:
        return
    except PermissionError as e:
        raise ConfigError(
            f"{place.name} of an earlier run (process {pid}) is still running under another user; "
            f"end it, or run smsengine as that user."
        ) from e
