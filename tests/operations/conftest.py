"""The engines that what may happen at night happens to; reports of what a run saw."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.conftest import Engine, start_engine

CONFIG = '[[providers]]\nname = "simulated"\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("operations")


@pytest.fixture(scope="module")
def victim(folder: Path) -> Iterator[Engine]:
    """One engine for the tests of a module, with a file that a reload reads."""
    (folder / "smsengine.toml").write_text(CONFIG)
    engine = start_engine(folder / "data", ("--demo", "--config", folder / "smsengine.toml"))
    yield engine
    code = engine.stop()
    engine.kill()
    assert code == 0, engine.log.read_text()[-3000:]
    assert "Traceback" not in engine.log.read_text()
