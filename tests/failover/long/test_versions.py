"""The version before this one runs beside it on the same stores, and nothing is lost or charged twice.

The earlier code is taken from the history of this repository, and runs with this environment's packages.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.failover.nodes import Stores, kill, process_of, stores
from tests.system.carriers import message_of
from tests.system.client import Caller, eventually, fetch
from tests.system.conftest import ROOT, STOP_S, Engine
from tests.system.faults import Senders, assert_clean, fetch_processes

# The state before this one.
PREVIOUS = "5d4d8f7"
_EXTENSION = "engine/_fastcredits.pyx"
# Accepted by each node between one event and the next.
_SOME = 200


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of the earlier version, ready to run."""
    if shutil.which("git") is None or _git("cat-file", "-e", f"{PREVIOUS}^{{commit}}").returncode:
        pytest.skip(f"the history of the repository, with the commit {PREVIOUS}, is not here")
    tree = tmp_path_factory.mktemp("previous")
    archive = _git("archive", PREVIOUS, "engine", "supervisor", "setup.py", "pyproject.toml", "README.md")
    subprocess.run(["tar", "-x", "-C", tree], input=archive.stdout, check=True)
    if (tree / _EXTENSION).read_bytes() == (ROOT / _EXTENSION).read_bytes():
        for built in (ROOT / "engine").glob("_fastcredits.*.so"):
            shutil.copy(built, tree / "engine")
    else:
        build = [sys.executable, "setup.py", "build_ext", "--inplace"]
        subprocess.run(build, cwd=tree, check=True, capture_output=True)
    return tree


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Stores]:
    with stores(tmp_path) as shared:
        yield shared


def _go_on(*senders: Senders) -> None:
    """Until each node has accepted some more."""
    wanted = [len(some.accepted) + _SOME for some in senders]
    eventually(lambda: all(len(s.accepted) >= n for s, n in zip(senders, wanted, strict=True)), 60)


def _log(engine: Engine) -> str:
    return engine.log.read_text()


def _replaced(engine: Engine, role: str) -> None:
    """Kill the role's process, and wait for the next one."""
    before = process_of(engine, role)
    kill(engine, role)
    eventually(lambda: process_of(engine, role) not in (0, before), 30)
    eventually(lambda: {p["role"] for p in fetch_processes(engine) if p["state"] == "ready"} >= {role}, 30)


@pytest.mark.parametrize("first", ["old", "new"])
def test_two_versions_share_the_work_and_either_may_lead(shared: Stores, previous: Path, first: str) -> None:
    trees = {"old": previous, "new": ROOT}
    engines = {first: shared.start(first, tree=trees[first])}
    second = "new" if first == "old" else "old"
    try:
        senders = {first: Senders(engines[first], count=1)}
        _go_on(*senders.values())
        engines[second] = shared.start(second, tree=trees[second])
        senders[second] = Senders(engines[second], count=1)
        _go_on(*senders.values())
        # Each ledger ends and comes back, so that each version has led and stood by.
        for name in (first, second, first):
            _replaced(engines[name], "ledger")
            _go_on(*senders.values())
        # The archiver and the matcher change over too.
        for name in (first, second):
            _replaced(engines[name], "archiver")
        _go_on(*senders.values())
        accepted = {name: some.stop() for name, some in senders.items()}
        _assert_shared(shared, engines, accepted)
        # One node is taken out, and the other goes on alone.
        assert engines.pop(first).stop() == 0
        alone = engines[second]
        last = Senders(alone, count=1)
        _go_on(last)
        accepted[first] += last.stop()
        _assert_shared(shared, engines, accepted)
    finally:
        for engine in engines.values():
            engine.kill()


def _assert_shared(shared: Stores, engines: dict[str, Engine], accepted: dict[str, list[str]]) -> None:
    """All was sent once, and every node shows all of it, its books clean."""
    all_ids = [message_id for ids in accepted.values() for message_id in ids]
    assert len(set(all_ids)) == len(all_ids)
    url = shared.simulator.url
    eventually(lambda: fetch(f"{url}/stats")["distinct"] >= len(all_ids), STOP_S)
    assert set(fetch(f"{url}/received?limit=1000000")["ids"]) == set(all_ids)
    assert fetch(f"{url}/stats")["duplicates"] == 0
    for name, engine in engines.items():
        # The books follow within a moment.
        eventually(lambda engine=engine: assert_clean(engine)["totals"]["captured"] >= len(all_ids), 30)
        totals = assert_clean(engine)["totals"]
        assert (totals["captured"], totals["held"]) == (len(all_ids), 0)
        for ids in accepted.values():
            for message_id in (ids[0], ids[-1]):
                shown = message_of(engine, message_id)
                assert (shown["status"], shown["charge"]) == ("sent", "captured"), shown
        _, status = Caller(engine.admin_url, engine.admin_key).call("GET", "/v1/admin/status")
        assert [queue["dead"] for queue in status["queues"].values()] == [0, 0]
        log = _log(engine)
        assert "Traceback" not in log
        # The supervisor fences those that it has seen end; nobody finds itself fenced, or in need of it.
        assert not re.findall(r"warning +fenced|was fenced|fell silent|moved to the dead letters", log), name
