"""The units in deploy/systemd, how they are installed, and what docs/operations.md says of them."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer.main

from engine import config
from supervisor.cli import app

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "deploy" / "systemd"
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
FILES = [
    "etc/smsengine/smsengine.toml",
    "etc/systemd/system/smsengine-admin.socket",
    "etc/systemd/system/smsengine.service",
    "etc/systemd/system/smsengine.socket",
    "etc/sysusers.d/smsengine.conf",
    "etc/tmpfiles.d/smsengine.conf",
    "usr/local/bin/smsengine",
]
with_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd is not here to read them"
)


def service(verb: str, root: Path | None = None, **options: int) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"DESTDIR": str(root)} if root else {})
    return subprocess.run(
        [UNITS / "service", verb], env=environment, capture_output=True, text=True, check=False, **options
    )  # type: ignore[call-overload]


def files_in(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_the_service_is_installed_once_mended_and_uninstalled(tmp_path: Path) -> None:
    first = service("install", tmp_path)
    assert first.returncode == 0, first.stderr
    assert files_in(tmp_path) == FILES
    assert "/opt/smsengine" not in (tmp_path / FILES[2]).read_text()
    assert f"ExecStart={ROOT}/.venv/bin/smsengine up " in (tmp_path / FILES[2]).read_text()
    assert stat.S_IMODE((tmp_path / FILES[0]).stat().st_mode) == 0o640
    second = service("install", tmp_path).stdout
    assert (second.count("as it should be"), second.count("written")) == (6, 0)
    (tmp_path / FILES[0]).write_text("node = 'mine'\n")
    (tmp_path / FILES[2]).write_text("changed\n")
    third = service("install", tmp_path).stdout
    assert (third.count("as it should be"), third.count("written")) == (5, 1)
    assert (tmp_path / FILES[0]).read_text() == "node = 'mine'\n", "settings are never overwritten"
    assert service("uninstall", tmp_path).returncode == 0
    assert files_in(tmp_path) == FILES[:1]
    assert "nothing was installed" in service("uninstall", tmp_path).stdout


@pytest.mark.parametrize("verb", ["install", "uninstall"])
def test_who_is_not_root_is_told_so_in_one_sentence(verb: str) -> None:
    options = {} if os.geteuid() else {"user": 65534}
    try:
        done = service(verb, **options)
    except PermissionError:
        pytest.skip("nobody but root can read this clone")
    assert done.returncode == 1
    assert done.stderr == f"make: A service is installed by root: sudo make {verb}-service.\n"
    assert done.stdout == ""


@with_systemd
def test_systemd_finds_nothing_wrong_with_the_units_and_little_exposed(tmp_path: Path) -> None:
    service("install", tmp_path)
    units = [str(tmp_path / name) for name in FILES[1:4]]
    verify = ["systemd-analyze", "verify", "--recursive-errors=yes", *units]
    found = subprocess.run(verify, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
    exposed = ["systemd-analyze", "security", "--offline=yes", "--threshold=20", units[1]]
    found = subprocess.run(exposed, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_the_units_call_commands_and_options_that_exist() -> None:
    unit = (UNITS / "smsengine.service").read_text(encoding="utf-8")
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for line in re.findall(r"^Exec(?:Start|Reload)=(.*)$", unit, re.MULTILINE):
        _, command, *words = line.split()
        known = {option for parameter in commands[command].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known
        assert f" --data-dir /var/lib/{re.findall('^StateDirectory=(.*)$', unit, re.MULTILINE)[0]}" in line


def test_the_settings_that_are_installed_and_those_of_the_page_are_valid() -> None:
    installed = (UNITS / "smsengine.toml").read_text(encoding="utf-8")
    uncommented = re.sub(r"^# (?=\[|\w+ = )", "", installed, flags=re.MULTILINE)
    shown = [
        *re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL),
        *re.findall(r"<<'END'\n(.*?)END", PAGE, re.DOTALL),
    ]
    assert len(shown) >= 4
    for text in (installed, uncommented, *shown):
        # The files of the passwords are not here.
        without_files = re.sub(r"^password_file.*\n", "", text, flags=re.MULTILINE)
        config.decode(without_files, "x")
    assert {"postgres", "redis", "clickhouse", "providers"} <= set(tomllib.loads(uncommented))


def test_the_commands_and_links_of_the_page_exist() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    lines = re.findall(r"^smsengine ([a-z-]+)", PAGE, re.MULTILINE)
    assert len(lines) >= 8
    assert set(lines) <= set(commands)
    links = re.findall(r"\]\(((?!https?:)[^)#]+)", PAGE)
    assert {link for link in links if not (ROOT / "docs" / link).exists()} == set()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake -C \S+ ([a-z-]+)", PAGE)) <= targets
