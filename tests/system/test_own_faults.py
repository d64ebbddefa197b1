"""A fault of the engine's own ends the process that has it, and others do its work."""

from __future__ import annotations

import re
from pathlib import Path

from tests.system.carriers import message_of
from tests.system.client import Caller, eventually
from tests.system.conftest import start_engine

CONFIG = """
[roles]
normal = 2

[[providers]]
name = "faulty"
type = "custom"
factory = "tests.system.faulty_provider:provider"
options = {{ marker = "{marker}" }}

[[routes]]
prefix = ""
providers = ["faulty"]
"""


def test_a_fault_in_acting_on_a_verdict_ends_the_worker_and_another_delivers_the_message(
    tmp_path: Path,
) -> None:
    marker, config = tmp_path / "marker", tmp_path / "smsengine.toml"
    config.write_text(CONFIG.format(marker=marker))
    engine = start_engine(tmp_path / "data", ("--demo", "--config", config))
    try:
        caller = Caller(engine.url, engine.api_key)
        status, accepted = caller.call(
            "POST", "/v1/messages", {"to": "+989121234567", "text": "Hi", "queue": "normal"}
        )
        assert status == 202, accepted
        sent = eventually(lambda: (m := message_of(engine, accepted["id"]))["status"] == "sent" and m)
        assert marker.exists()
        log = engine.log.read_text()
        ended = [line for line in log.splitlines() if "child_ended" in line]
        assert ["normal" in line and re.search(r"\bcode\W+1\b", line) is not None for line in ended] == [True]
        assert "a fault of this program ends the process" in log
        assert "a fault put in on purpose" in log
        events = [event["event"] for event in sent["events"]]
        assert events.count("sent") == 1
        assert engine.stop() == 0
    finally:
        engine.kill()
