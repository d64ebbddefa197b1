"""The engine that a test of chaos works on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.conftest import Engine, start_engine


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Engine]:
    engine = start_engine(tmp_path / "data")
    yield engine
    engine.stop()
    engine.kill()
