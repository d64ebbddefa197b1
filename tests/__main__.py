"""All tests, two groups side by side, for most of their time is waiting: `python -m tests`.

The whole engine (`tests/system`) runs beside its parts; its output follows theirs. Each
group starts servers of its own. The exit code is that of the first group that failed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

PYTEST = [sys.executable, "-m", "pytest"]


def main() -> int:
    with tempfile.TemporaryFile() as output:
        whole = subprocess.Popen([*PYTEST, "tests/system"], stdout=output, stderr=subprocess.STDOUT)
        try:
            parts = subprocess.call([*PYTEST, "tests", "--ignore=tests/system", "--ignore=tests/chaos"])
            system = whole.wait()
        except KeyboardInterrupt:
            whole.wait()
            return 130
        output.seek(0)
        sys.stdout.buffer.write(output.read())
    return parts or system


if __name__ == "__main__":
    sys.exit(main())
