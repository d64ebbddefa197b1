"""What may never be written to a log is not, and a line says the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest
import structlog

from engine.logs.telemetry import as_json_line, as_text_line, configure_logs, mask, present_level, set_level


def masked(**event: Any) -> dict[str, Any]:
    return dict(mask(None, "info", event))


def test_texts_recipients_and_secrets_are_masked_whole() -> None:
    assert masked(event="x", text="Your code is 1234", to="+989121234567", password="p") == {
        "event": "x", "text": "***", "to": "***", "password": "***",
    }  # fmt: skip


def test_numbers_and_credentials_inside_other_text_are_masked() -> None:
    event = masked(event="x", why=ValueError("no route to +989121234567 by redis://u:secret@host:6379/0"))
    assert event["why"] == "no route to +*** by redis://***@host:6379/0"
    assert masked(event="x", exception="Traceback … +4915112345678")["exception"] == "Traceback … +***"


def test_figures_stay_figures() -> None:
    assert masked(event="x", code=-9, seconds=0.5, ok=True, none=None) == {
        "event": "x", "code": -9, "seconds": 0.5, "ok": True, "none": None,
    }  # fmt: skip


def test_a_line_of_text_is_keys_and_values() -> None:
    event = {"timestamp": "T", "level": "info", "event": "child_ended", "child": "ingest 1", "code": -9}
    assert as_text_line(None, "info", dict(event)) == 'T info    child_ended child="ingest 1" code=-9'
    assert as_text_line(None, "info", event | {"exception": "Traceback"}).endswith("code=-9\nTraceback")


def test_a_line_of_json_is_json() -> None:
    assert json.loads(as_json_line(None, "info", {"event": "x", "code": 3})) == {"event": "x", "code": 3}


def test_a_level_holds_at_once_also_for_loggers_that_were_bound_before(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logs(as_json=True)
    bound = structlog.get_logger("smpp").bind(provider="a")
    bound.debug("first")
    set_level("debug")
    assert present_level() == "debug"
    bound.debug("second")
    set_level("error")
    bound.warning("third")
    bound.error("fourth")
    set_level("info")
    lines = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["second", "fourth"]
