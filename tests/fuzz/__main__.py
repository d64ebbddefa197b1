"""`make fuzz`: all targets for MINUTES or CASES, two at a time, guided by coverage.

`python -m tests.fuzz --minutes 10`, `--cases 1000000`, `--target smpp_session`. What it has learnt stays in
`.fuzz/`, one folder for each target. An input that breaks a promise is kept in a file, whose name is printed
with the command that tries it again: `python -m tests.fuzz --target NAME --input FILE`. The exit code is 1
when anything was found, or when it was ended before: by SIGINT or SIGTERM, after which the processes of its
targets have ended, too. They do not outlive it when it is killed.
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".fuzz"
CORES = 2
_SHOW_S = 5.0
# How long a target has to end the input that it tries, seconds.
_END_S = 5.0
_COVERAGE = re.compile(r"cov: (\d+)")


class Campaign:
    """One target that is being fuzzed in a process of its own."""

    def __init__(self, name: str, arguments: list[str]) -> None:
        self.name = name
        self._folder = FOLDER / name
        self._arguments = arguments
        self.cases = self.coverage = self.findings = 0
        self.began_s = self.ended_s = 0.0
        self._last: list[str] = []
        self._child: subprocess.Popen[str] | None = None
        self._ends = False

    def run(self) -> bool:
        """Fuzz it to the end; whether nothing was found."""
        self.began_s = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "tests.fuzz.campaign",
            self.name,
            str(self._folder),
            *self._arguments,
        ]
        self._child = child = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        if self._ends:
            child.terminate()
        assert child.stdout is not None
        for line in child.stdout:
            self._hear(line.strip())
        code = child.wait()
        self.ended_s = time.monotonic()
        if code:
            say(f"{self.name} ended with code {code}:\n" + "\n".join(f"    {line}" for line in self._last))
        return not (code or self.findings)

    def end(self) -> None:
        """Ask its process to end, and end it when it hangs."""
        self._ends = True
        if self._child is not None:
            self._child.terminate()
            try:
                self._child.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._child.kill()

    def _hear(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "cases":
            self.cases = int(rest)
        elif word == "finding":
            self.findings += 1
            file, _, reason = rest.partition(" ")
            again = f".venv/bin/python -m tests.fuzz --target {self.name} --input {file}"
            say(f"{self.name} found: {reason[:500]}\n    kept in {file}; to try it again: {again}")
        else:
            self._last = [*self._last[-20:], line]
            if match := _COVERAGE.search(line):
                self.coverage = int(match[1])

    def row(self) -> str:
        """What has come of it so far."""
        seconds = max((self.ended_s or time.monotonic()) - self.began_s, 0.001)
        return (
            f"{self.name:15} {self.cases:>10,} cases {self.cases / seconds:>8,.0f}/s {self.coverage:>6,}"
            f" branches {self.findings:>3} found {seconds:>6,.0f} s"
        )


def say(text: str) -> None:
    """One write, so that it stays whole."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--minutes", type=float, default=0, help="in all; shared among the targets")
    parser.add_argument("--cases", type=int, default=0, help="for each target")
    parser.add_argument(
        "--target", default="", help=f"one of {', '.join(TARGETS)}, or several with commas between"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--unguided", action="store_true", help="more cases, by chance alone")
    parser.add_argument("--input", type=Path, help="a file with one input for the target")
    asked = parser.parse_args()
    names = asked.target.split(",") if asked.target else list(TARGETS)
    if unknown := set(names) - TARGETS.keys():
        sys.exit(f"There is no target {min(unknown)!r}, only {', '.join(TARGETS)}.")
    if asked.input is not None:
        return again(names[0], asked.input)
    seconds = int(asked.minutes * 60 * min(CORES, len(names)) / len(names))
    arguments = [f"--cases={asked.cases}", f"--seconds={seconds}", f"--seed={asked.seed}"]
    arguments += ["--unguided"] if asked.unguided else []
    return fuzz([Campaign(name, arguments) for name in names])


def again(name: str, file: Path) -> int:
    """Try one input, and show what it does."""
    with TARGETS[name].opened() as check:
        check(file.read_bytes())
    say(f"{name} keeps its promises with {file}.")
    return 0


def fuzz(campaigns: list[Campaign]) -> int:
    """All of them, two at a time, shown as they go."""
    over = threading.Event()

    def show() -> None:
        while not over.wait(_SHOW_S):
            for one in campaigns:
                if one.began_s and not one.ended_s:
                    say(one.row())

    shower = threading.Thread(target=show, daemon=True)
    shower.start()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ThreadPoolExecutor(CORES) as pool:
        running = [pool.submit(one.run) for one in campaigns]
        try:
            clean = [one.result() for one in running]
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for one in campaigns:
                one.end()
            clean = [False]
    over.set()
    shower.join()
    say("\n" + "\n".join(one.row() for one in campaigns))
    return 0 if all(clean) else 1


if __name__ == "__main__":
    sys.exit(main())
