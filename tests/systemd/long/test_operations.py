"""The commands of docs/operations.md, in their order, on a machine where nothing is installed yet."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.conftest import free_port, listen_on
from tests.systemd.machine import ROOT, Forbidden, Machine

PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
BLOCK = re.compile(
    r"^## (?P<title>[^\n]*)$|(?P<skip><!-- not tested: [^\n]* -->\n)?^```sh\n(?P<text>.*?)^```", re.M | re.S
)
WALKED = {"Install", "Start", "Change settings", "Restart, stop", "Backup and restore", "Remove"}


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Machine]:
    try:
        machine = Machine(tmp_path)
    except Forbidden as e:
        pytest.skip(f"no systemd of its own on this machine: {e}")
    yield machine
    machine.stop()


def blocks() -> list[tuple[str, str]]:
    """(heading, commands) of each block that can be run here."""
    found, title = [], ""
    for block in BLOCK.finditer(PAGE):
        title = block["title"] or title
        if block["text"] and not block["skip"]:
            found.append((title, block["text"].replace("/opt/smsengine", str(ROOT))))
    return found


def test_the_page_leads_from_a_bare_server_to_a_running_service_and_back(bare: Machine) -> None:
    titles = []
    for title, commands in blocks():
        done = bare.run("bash", "-euo", "pipefail", "-c", commands, check=False)
        journal = bare.journal("--lines=30")
        assert done.returncode == 0, f"{title}\n{commands}\n{done.stdout}{done.stderr}\n{journal}"
        titles.append(title)
        if title == "Install":
            listen_on(bare, free_port())
        if title == "Backup and restore" and titles.count(title) == 2:
            balance = bare.run("/usr/local/bin/smsengine", "org", "balance", 1, "--json").stdout
            assert json.loads(balance)["posted"] == 999, "what was sent before the backup is in the books"
    assert set(titles) >= WALKED
    assert bare.run("ls", "/var/lib/smsengine").stdout
