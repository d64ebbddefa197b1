"""The engine that is soaked: two carriers with receipts, four organisations, two processes of some roles."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from supervisor.simulator import Simulator, start_simulator
from tests.system.client import Caller, behave
from tests.system.conftest import Engine, start_engine

TOKEN = "token-of-the-soak"
CONFIG = """
[roles]
ingest = 2
normal = 2

[queues.normal]
backoff_max_s = 10.0

[[providers]]
name = "a"
type = "smpp"
host = "127.0.0.1"
port = {smpp_port}
system_id = "engine"
password = "secret"
message_id_parameter = "1401"
timeout_s = 4
enquire_link_s = 2

[[providers]]
name = "b"
type = "http"
preset = "simulated"
url = "{http_url}"
timeout_s = 4
public_url = "http://127.0.0.1:1"
receipt_token = "{token}"

[[routes]]
prefix = ""
providers = ["a", "b"]
weights = [1, 1]
"""
ORGANISATIONS = 4
UNITS = 50_000_000


@dataclass(kw_only=True)
class World:
    """What a soak works on. `keys` are the API keys of the organisations."""

    engine: Engine
    carriers: tuple[Simulator, Simulator]
    config: Path
    keys: list[str] = field(default_factory=list)

    def well(self, index: int) -> None:
        """Let a carrier be as a good one is: quick, with receipts, a few of which say undelivered."""
        behave(
            self.carriers[index].url,
            outage=False,
            latency={"lognormal": {"median_ms": 30, "sigma": 0.5}},
            error_rates={"temporary": 0.002, "permanent": 0.002, "timeout": 0, "reset": 0},
            throughput=None,
            receipts={
                "delay": {"lognormal": {"median_ms": 2000, "sigma": 1.0}},
                "undelivered": 0.02,
                "duplicate": 0.02,
                "url": f"{self.engine.url}/v1/providers/b/receipts/{TOKEN}",
            },
        )


@contextmanager
def world(folder: Path, seed: int) -> Iterator[World]:
    """A world in this folder, where its data and its log stay."""
    a = start_simulator(smpp_listen="127.0.0.1:0")
    b = start_simulator()
    config = folder / "smsengine.toml"
    config.write_text(CONFIG.format(smpp_port=a.smpp_port, http_url=b.url, token=TOKEN))
    engine = start_engine(folder / "data", ("--demo", "--config", config))
    try:
        made = World(engine=engine, carriers=(a, b), config=config)
        admin = Caller(engine.admin_url, engine.admin_key)
        for number in range(ORGANISATIONS):
            _, organisation = admin.call("POST", "/v1/admin/organisations", {"name": f"soak {number}"})
            path = f"/v1/admin/organisations/{organisation['id']}"
            admin.call("POST", f"{path}/top-ups", {"units": UNITS, "reference": f"soak {seed}"})
            # Their shares differ.
            admin.call("PATCH", f"{path}/limits", {"weight": 1 + number})
            made.keys.append(organisation["api_key"])
        for index in range(2):
            made.well(index)
        yield made
    finally:
        engine.stop()
        engine.kill()
        a.stop()
        b.stop()


def text_of(rng: random.Random) -> str:
    """A text of one segment, seldom of three, in the GSM alphabet or in Persian."""
    word = rng.choice(("Your code is 4711. ", "کد شما ۴۷۱۱ است. "))
    return (word * (1 if rng.random() < 0.95 else 9))[:300] + str(rng.randrange(10**6))
