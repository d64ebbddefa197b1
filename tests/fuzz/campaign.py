"""One target, fuzzed for long: `python -m tests.fuzz.campaign TARGET FOLDER`, see `--help`.

By atheris, which makes inputs from those that reached new lines; without it, or with `--unguided`, by
mutations of the seeds and of what an earlier run has kept, at several times the rate. The folder keeps the
inputs that reached something new, and those that broke a promise. It prints a line `cases N` every second,
`finding FILE REASON` for each, and what libFuzzer says.

An input that does not end within a minute ends the process. SIGTERM and SIGINT end it after the input that it
tries; the end of the process that began it does so at once.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

atheris: ModuleType | None = None
if "--unguided" not in sys.argv:
    with contextlib.suppress(ImportError):
        import atheris

with atheris.instrument_imports(include=["engine", "supervisor"]) if atheris else contextlib.nullcontext():
    from tests.fuzz.mutation import inputs
    from tests.fuzz.target import Target
    from tests.fuzz.targets import TARGETS, Trial, found_before

# More findings are not looked for.
FINDINGS_MAX = 50
# An input that takes longer hangs, seconds.
HANGS_S = 60
_SAY_S = 1.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Run:
    """Tries inputs, and says what comes of them."""

    def __init__(self, trial: Trial, close: Callable[[], None], cases: int, seconds: int) -> None:
        """`close` is called after the last input."""
        self._trial = trial
        self._close = close
        self._cases = cases
        self._until_s = time.monotonic() + seconds if seconds else float("inf")
        self._said_s = 0.0

    def end(self, *_: object) -> None:
        """Make the input that is tried, or the next, the last. Called by a signal."""
        self._until_s = 0.0

    def one(self, data: bytes) -> None:
        """Try one input. The process ends with the last: libFuzzer, which calls this, has no other end."""
        trial = self._trial
        finding = trial(data)
        if finding is not None:
            _say(f"finding {finding.path} {finding.reason}")
        now_s = time.monotonic()
        over = trial.cases == self._cases or now_s >= self._until_s or len(trial.findings) >= FINDINGS_MAX
        if over or now_s - self._said_s >= _SAY_S:
            self._said_s = now_s
            faulthandler.dump_traceback_later(HANGS_S, exit=True)
            _say(f"cases {trial.cases}")
        if over:
            self._close()
            os._exit(0)

    def all(self, found: Iterable[bytes]) -> None:
        """Try these inputs, which have no end."""
        for data in found:
            self.one(data)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, default=0, help="0: no end")
    parser.add_argument("--seconds", type=int, default=0, help="0: no end")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--unguided", action="store_true")
    asked = parser.parse_args()
    # If that one has ended before, the first line that is printed ends this one.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    target, corpus = TARGETS[asked.target], asked.folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    further = found_before(target.name)
    with contextlib.ExitStack() as stack:
        trial = Trial(target, stack.enter_context(target.opened()), asked.folder / "found")
        run = Run(trial, stack.close, asked.cases, asked.seconds)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, run.end)
        if atheris:
            _guided(run, target, asked.folder, further, asked.seed)
        further += [file.read_bytes() for file in sorted(corpus.iterdir())]
        # On the main thread each run of a loop of uvloop sets up signals: a third of the time of a case.
        worker = threading.Thread(target=run.all, args=[inputs(target, asked.seed, None, further)])
        worker.start()
        worker.join()
        sys.exit("It could not go on.")


def _guided(run: Run, target: Target, folder: Path, further: list[bytes], seed: int) -> None:
    """Does not return."""
    assert atheris is not None
    seeds, words = folder / "seeds", folder / "words"
    seeds.mkdir(exist_ok=True)
    for n, data in enumerate([*target.seeds(), *further]):
        (seeds / str(n)).write_bytes(data)
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words), encoding="ascii")
    options = [
        f"-seed={seed}", f"-max_len={target.octets_max}", f"-artifact_prefix={folder}/", f"-dict={words}",
        f"-timeout={HANGS_S}", "-rss_limit_mb=2048", "-handle_int=0", "-handle_term=0",
        str(folder / "corpus"), str(seeds),
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options], run.one)
    atheris.Fuzz()


def _say(line: str) -> None:
    sys.stdout.write(" ".join(line.split()) + "\n")
    sys.stdout.flush()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{octet:02x}" for octet in word)


if __name__ == "__main__":
    main()
