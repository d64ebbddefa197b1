"""`make install` says in one sentence what a machine lacks; variables of targets govern what they say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def make(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    for name in ("Makefile", "pyproject.toml", "setup.py", "requirements-embedded.txt"):
        shutil.copy(ROOT / name, folder)
    # Not those of the make that runs these tests.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments],
        cwd=folder, env=inherited | variables, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def python_that_fails(folder: Path, on: str) -> str:
    """A Python that is like this one but for one question."""
    script = folder / "python"
    script.write_text(f'#!/bin/sh\ncase "$*" in *"{on}"*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return str(script)


@pytest.mark.parametrize(
    ("lacking", "sentence"),
    [
        ("version_info", "3.11 or newer is needed: name one with PYTHON=."),
        ("ensurepip", "lacks its venv module (Debian: apt install python3-venv)."),
        ("Python.h", "are missing (Debian: apt install python3-dev)."),
    ],
)
def test_what_python_lacks_is_named(tmp_path: Path, lacking: str, sentence: str) -> None:
    done = make(tmp_path, "install", f"PYTHON={python_that_fails(tmp_path, lacking)}")
    assert done.returncode != 0
    first, last = done.stderr.splitlines()
    assert first.startswith("make: ")
    assert first.endswith(sentence)
    assert "Error 1" in last
    assert not (tmp_path / ".venv").exists()


def test_a_missing_python_or_compiler_is_named(tmp_path: Path) -> None:
    assert (
        "There is no python9; install Python 3.11 or newer"
        in make(tmp_path, "install", "PYTHON=python9").stderr
    )
    assert (
        "There is no C compiler (Debian: apt install gcc)."
        in make(tmp_path, "install", f"PYTHON={sys.executable}", CC="no-such-compiler").stderr
    )


def test_make_alone_lists_the_targets(tmp_path: Path) -> None:
    shown = make(tmp_path).stdout
    for target in ("install", "run", "test", "lint", "check", "bench", "clean"):
        assert f"  make {target} " in shown


# By target, the variable that says how much of it is done; "": nothing does.
CHAOS = {"chaos": "MINUTES", "outages": "", "archive-kills": "KILLS", "day": "MESSAGES"}


def test_each_test_of_chaos_is_run_by_one_target_whose_variable_governs_it(tmp_path: Path) -> None:
    by_target = {
        target: re.findall(r"tests/chaos/(test_\w+\.py)", make(tmp_path, "--dry-run", target).stdout)
        for target in CHAOS
    }
    run = sorted(file for files in by_target.values() for file in files)
    assert run == sorted(path.name for path in (ROOT / "tests" / "chaos").glob("test_*.py"))
    for target, files in by_target.items():
        for file in files:
            text = (ROOT / "tests" / "chaos" / file).read_text()
            read = {name for name in CHAOS.values() if name and f'os.environ.get("{name}"' in text}
            assert read == ({CHAOS[target]} - {""}), (target, file)
