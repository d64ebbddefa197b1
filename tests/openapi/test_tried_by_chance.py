"""What `make schemathesis` does at length, with a few requests for each call."""

from __future__ import annotations

from tests.openapi.campaign import run
from tests.openapi.documented import Documented
from tests.openapi.test_examples import put_right


def test_requests_by_chance_are_answered_as_described_and_never_with_a_fault(documented: Documented) -> None:
    engine, of = documented.engine, documented.organisation()
    tries = (
        (engine.url, of.api_key, ("fuzzing",), 2),
        (engine.admin_url, engine.admin_key, ("fuzzing",), 1),
    )
    for url, key, phases, examples in tries:
        code, text = run(documented, url, key, examples, phases, seed=1)
        assert code == 0, text
        assert "passed" in text
    put_right(documented, of)
