"""No benchmark begins with an argument that it cannot take: it says which one, and what is allowed."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import benchmarks

PLACE = Path(__file__).parents[2] / "benchmarks"
BAD = ("", " ", "x", "nan", "inf", "-1", "1e400", "9" * 5000, "٣", ",", "1,,2")
# What takes a text of any kind.
TEXTS = {"--config", "--costs", "--key", "--name", "--only", "--results", "--roles", "--run"}
# Of a folder, and of what may be none, only these are wrong.
FOLDER = ("", "x" * 5000, "file", "file/below")
BAD_OF = {"--data-dir": FOLDER, "--report": FOLDER, "--to": FOLDER, "--rates": BAD[1:]}
# What a benchmark must be given besides.
BESIDE = {"load": ["--url=http://127.0.0.1:9", "--key=k"]}


def options() -> list[tuple[str, str]]:
    """The modules of the benchmarks, with each option that takes something."""
    found = []
    for one in benchmarks():
        module = one.command.rpartition(".")[2] if one.takes else ""
        text = (PLACE / f"{module}.py").read_text(encoding="utf-8") if module else ""
        for name, rest in re.findall(r"add_argument\(\s*\"(--[a-z-]+)\",?([^)]*)", text):
            if "store_true" not in rest and name not in TEXTS:
                found.append((module, name))
        if "versions=True" in text:
            found.append((module, "--versions"))
    return found


def test_there_are_options() -> None:
    assert {("isolation", "--answers"), ("lone", "--versions"), ("sweep", "--processes")} <= {*options()}


@pytest.mark.parametrize(("module", "option"), options())
def test_what_an_option_cannot_be_is_said_before_anything_is_measured(
    module: str, option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    main = importlib.import_module(f"benchmarks.{module}").main
    (tmp_path / "file").touch()
    for bad in BAD_OF.get(option, BAD):
        given = [*BESIDE.get(module, []), f"{option}={bad}"]
        monkeypatch.setattr(sys, "argv", ["x", *given])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2, bad
        assert option in capsys.readouterr().err.splitlines()[-1], bad
