"""What may never be written to a log is not, and a line says the rest."""

from __future__ import annotations

import json
from typing import Any

from engine.telemetry import as_json_line, as_text_line, mask


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
