"""A supervisor with real forks, signals and pipes, which a test starts and does not have to end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervisor.process.running import Running, Start


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Running] = []

    def start(**options: object) -> Running:
        started.append(Running(tmp_path, **options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for running in started:
        running.kill()
