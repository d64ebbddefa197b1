"""Which directories the engine takes for its data."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.capacity.costs import CALIBRATION
from engine.errors import ConfigError
from supervisor.datadir import DataDir


def test_a_machine_may_be_calibrated_before_the_first_start(tmp_path: Path) -> None:
    (tmp_path / CALIBRATION).write_text("{}")
    place = DataDir(tmp_path)
    place.claim()
    place.leave()
    assert (tmp_path / "format").exists()


def test_files_of_something_else_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").touch()
    with pytest.raises(ConfigError, match="not empty and no data directory of smsengine"):
        DataDir(tmp_path).claim()
