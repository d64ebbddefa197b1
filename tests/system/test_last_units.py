"""The last units of an organisation, raced for through several ingest processes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.system.client import Caller, eventually, fetch
from tests.system.conftest import Engine, start_engine

CLIENTS = 10
UNITS = 100
ROUNDS = 3


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine with three ingest processes behind one port."""
    folder = tmp_path_factory.mktemp("last_units")
    config = folder / "smsengine.toml"
    config.write_text("[roles]\ningest = 3\n")
    engine = start_engine(folder / "data", ("--demo", "--config", config))
    yield engine
    engine.stop()
    engine.kill()


def race(engine: Engine, key: str) -> Counter[int]:
    """All clients send single messages until each has been refused twice; answers by status."""
    answers: Counter[int] = Counter()
    trouble: list[BaseException] = []
    together = threading.Barrier(CLIENTS)

    def client() -> None:
        caller, refused = Caller(engine.url, key), 0
        try:
            together.wait(10)
            while refused < 2:
                status, _ = caller.call("POST", "/v1/messages", {"to": "+989121234567", "text": "race"})
                answers[status] += 1
                refused += status != 202
        # A thread's failure is the test's: it is raised where the thread has ended.
        except BaseException as e:
            trouble.append(e)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trouble == []
    return answers


def test_ten_clients_that_race_for_the_last_units_get_exactly_those(engine: Engine) -> None:
    admin = Caller(engine.admin_url, engine.admin_key)
    _, made = admin.call("POST", "/v1/admin/organisations", {"name": "racers"})
    before = fetch(f"{engine.simulator_url}/stats")["received"]
    for n in range(ROUNDS):
        top_up = {"units": UNITS, "reference": f"round {n}"}
        assert admin.call("POST", f"/v1/admin/organisations/{made['id']}/top-ups", top_up)[0] == 201
        answers = race(engine, made["api_key"])
        assert answers == {202: UNITS, 402: 2 * CLIENTS}, f"round {n}"

    def all_received() -> bool:
        received: int = fetch(f"{engine.simulator_url}/stats")["received"]
        return received - int(before) == ROUNDS * UNITS

    eventually(all_received)

    def balance() -> Any:
        _, found = Caller(engine.url, made["api_key"]).call("GET", "/v1/balance")
        return found

    eventually(lambda: balance() == {"posted": 0, "held": 0, "available": 0})
