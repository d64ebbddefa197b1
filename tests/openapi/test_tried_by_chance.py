"""What `make schemathesis` does at length, with a few requests for each call.

On an engine of its own: prices, routes and limits made by chance would stay for the tests after it.
"""

from __future__ import annotations

from pathlib import Path

from tests.openapi.campaign import run
from tests.openapi.documented import Documented
from tests.system.conftest import start_engine


def test_requests_by_chance_are_answered_as_described_and_never_with_a_fault(tmp_path: Path) -> None:
    engine = start_engine(tmp_path / "data")
    try:
        documented = Documented.of(engine)
        of = documented.organisation()
        for url, key, examples in ((engine.url, of.api_key, 2), (engine.admin_url, engine.admin_key, 1)):
            code, text = run(documented, url, key, examples, ("fuzzing",), seed=1)
            assert code == 0, text
            assert "passed" in text
        assert engine.stop() == 0, engine.log.read_text()[-3000:]
    finally:
        engine.kill()
