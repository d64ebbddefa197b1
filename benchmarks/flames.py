"""Where the processes of an engine spend their CPU under load: flame graphs.

    python -m benchmarks.flames                                    ingest, a worker and the archiver, singles
    python -m benchmarks.flames --case batch --roles ingest,normal,ledger --to /tmp

Takes half a minute. An engine, an SMPP simulator and the closed load are those of `benchmarks.peers`.
Meanwhile `py-spy` looks at each process `--hertz` times a second, from outside, and counts what holds the
interpreter. (The waiting of uvloop in C would look like work to it.) Written are `flames-CASE-ROLE.svg`,
which a browser shows and searches, or with `--folded` the same as text, a line for each stack, by which two
runs are compared. Exit code 2 when `py-spy` is missing, or may not look: it needs root, or
`kernel.yama.ptrace_scope = 0`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from benchmarks import peers
from benchmarks.arguments import count_from_1, folder, more_than_0, parser_of
from benchmarks.running import descendants

_ROLES = "ingest,normal,archiver"
# The load begins before the look, and ends after it, seconds.
_AROUND_S = 1.0


def pid_of(supervisor_pid: int, role: str) -> int:
    """The process of that role. Raises SystemExit when there is none."""
    for pid in descendants(supervisor_pid):
        title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        if title.startswith(f"smsengine: {role}"):
            return pid
    raise SystemExit(f"--roles: there is no process of the role {role}.")


def look(pid: int, to: Path, seconds: float, hertz: int, kind: str) -> subprocess.Popen[bytes]:
    """py-spy, looking at that process and its threads."""
    command = ["py-spy", "record", "--pid", str(pid), "--output", str(to), "--format", kind]
    command += ["--duration", str(round(seconds)), "--rate", str(hertz), "--gil"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def name(picture: Path, title: str) -> None:
    """Give a flame graph a title in place of the command that made it."""
    if picture.suffix == ".svg" and picture.exists():
        picture.write_text(re.sub(r"py-spy record [^<]*", title, picture.read_text()))


def main() -> int:
    """Offer the load and look: the exit code."""
    parser = parser_of("flames", __doc__)
    parser.add_argument("--case", choices=("single", "batch"), default="single", help="(default single)")
    parser.add_argument("--roles", default=_ROLES, help=f"(default {_ROLES})")
    parser.add_argument("--seconds", type=more_than_0, default=15, help="how long to look (default 15)")
    parser.add_argument("--hertz", type=count_from_1, default=200, help="looks a second (default 200)")
    parser.add_argument("--folded", action="store_true", help="text instead of pictures")
    parser.add_argument(
        "--to", type=folder, default=Path("docs/reports"), help="folder (default docs/reports)"
    )
    given = parser.parse_args()
    if shutil.which("py-spy") is None:
        parser.exit(2, "py-spy is not installed; `pip install py-spy` installs it.\n")
    kind, suffix = ("raw", "txt") if given.folded else ("flamegraph", "svg")
    with peers.bench([given.case], "file", 100) as bench:
        bench.run(given.case, _AROUND_S)
        pids = {role: pid_of(bench.supervisor_pid, role) for role in given.roles.split(",")}
        load = threading.Thread(target=bench.run, args=(given.case, given.seconds + 2 * _AROUND_S))
        load.start()
        time.sleep(_AROUND_S)
        files = {role: given.to / f"flames-{given.case}-{role}.{suffix}" for role in pids}
        looks = [look(pid, files[role], given.seconds, given.hertz, kind) for role, pid in pids.items()]
        failed = [text.decode() for one in looks if (text := one.communicate()[1]) and one.returncode]
        load.join()
    for role, file in files.items():
        name(file, f"{role}, {given.case}")
    if failed:
        print(f"py-spy may not look, or failed:\n{failed[0]}", file=sys.stderr)
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
