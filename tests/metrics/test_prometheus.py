"""Prometheus' own tool reads our rules, our metrics, and fires each alert in the case that it is for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from engine.metrics.exposition import rendered
from tests.metrics.test_catalogue import ACCEPTS, everything

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: apt install prometheus)"
)


def promtool(*arguments: str, given: bytes = b"") -> str:
    """What promtool prints; a failure of it fails the test with its words."""
    ended = subprocess.run(
        ["promtool", *arguments], cwd=FOLDER, input=given, capture_output=True, check=False, timeout=60
    )
    told = ended.stdout.decode() + ended.stderr.decode()
    assert ended.returncode == 0, told
    return told


def test_the_rules_are_rules_and_each_alert_fires_in_its_case_only() -> None:
    promtool("check", "rules", "smsengine.rules.yml")
    promtool("test", "rules", "smsengine.tests.yml")


def test_a_scrape_keeps_to_the_conventions_of_prometheus() -> None:
    text, _ = rendered(*everything(), ACCEPTS["text"])
    assert promtool("check", "metrics", given=text).strip() == ""
