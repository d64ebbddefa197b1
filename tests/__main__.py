"""All tests but the long ones, in groups side by side, for most of their time is waiting:
`python -m tests`.

Each line is shown as it comes, behind the name of its group. Each group starts servers of
its own. The exit code is that of the first group that failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import IO

# Folders whose tests run in a group of their own; all others make the last one.
GROUPS = {"system": ["system"], "edges": ["providers", "supervisor"]}
REST = "core"
# Run by targets of their own.
LONG = ["chaos"]


def main() -> int:
    apart = [folder for folders in GROUPS.values() for folder in folders] + LONG
    wanted = {name: [f"tests/{folder}" for folder in folders] for name, folders in GROUPS.items()}
    wanted[REST] = ["tests", *(f"--ignore=tests/{folder}" for folder in apart)]
    groups = {name: start(arguments) for name, arguments in wanted.items()}
    shown = [threading.Thread(target=show, args=(name, group.stdout)) for name, group in groups.items()]
    for thread in shown:
        thread.start()
    try:
        codes = [group.wait() for group in groups.values()]
    except KeyboardInterrupt:
        # A terminal has told the groups too; they say what they have found so far.
        codes = [group.wait() or 130 for group in groups.values()]
    for thread in shown:
        thread.join()
    return next((code for code in codes if code), 0)


def start(arguments: list[str]) -> subprocess.Popen[str]:
    """A group, with its output as it comes."""
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )


def show(name: str, output: IO[str] | None) -> None:
    """Each line whole, whatever the other groups print meanwhile."""
    assert output is not None
    for line in output:
        sys.stdout.write(f"{name:6} | {line}")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
