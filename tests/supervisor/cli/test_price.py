"""`smsengine price` with what it cannot carry out: one plain sentence and exit code 2."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor import cli

ADMIN = ["--url", "http://127.0.0.1:9", "--admin-key", "k"]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SMSENGINE_")]:
        monkeypatch.delenv(name)
    (tmp_path / "no.toml").write_text("[prices\n")
    (tmp_path / "other.toml").write_text("[price]\n'' = 1\n")
    (tmp_path / "text.toml").write_text("[prices]\n'' = '1'\n")
    (tmp_path / "good.toml").write_text("[prices]\n'' = 1\n'+98' = 2\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["set"], "Missing argument"),
        (["set", "none.toml"], "none.toml cannot be read: No such file or directory."),
        (["set", "no.toml"], "no.toml is not TOML"),
        (["set", "other.toml"], "other.toml must have a table [prices]"),
        (["set", "text.toml"], "text.toml must have a table [prices]"),
        (["set", "+98=two"], "'+98=two' must be PREFIX=UNITS"),
        (["set", "+98=-1"], "'+98=-1' must be PREFIX=UNITS"),
        (["set", "+98=1", "+99"], "'+99' must be PREFIX=UNITS"),
        (["set", "good.toml"], "nothing listens there"),
        (["set", "+98=1"], "nothing listens there"),
        (["list"], "nothing listens there"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["price", *arguments, *ADMIN]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert sentence in printed.err
    assert printed.err.count("\n") == 1
