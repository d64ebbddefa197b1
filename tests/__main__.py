"""All tests but the long ones, in groups side by side, for most of their time is waiting:
`python -m tests`.

The output of the first group is shown as it comes, that of the others follows. Each group
starts servers of its own. The exit code is that of the first group that failed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

PYTEST = [sys.executable, "-m", "pytest"]
# Folders whose tests run in a group of their own; all others make the first one.
GROUPS = [["system"], ["providers", "supervisor"]]
# Run by targets of their own.
LONG = ["chaos"]


def main() -> int:
    apart = [folder for group in GROUPS for folder in group] + LONG
    outputs = [tempfile.TemporaryFile() for _ in GROUPS]  # noqa: SIM115 - closed below
    beside = [
        subprocess.Popen(
            [*PYTEST, *(f"tests/{folder}" for folder in group)], stdout=output, stderr=subprocess.STDOUT
        )
        for group, output in zip(GROUPS, outputs, strict=True)
    ]
    try:
        codes = [subprocess.call([*PYTEST, "tests", *(f"--ignore=tests/{folder}" for folder in apart)])]
        codes += [group.wait() for group in beside]
    except KeyboardInterrupt:
        for group in beside:
            group.wait()
        return 130
    for output in outputs:
        with output:
            output.seek(0)
            sys.stdout.buffer.write(output.read())
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main())
