"""The helper of other tests that waits for messages to end."""

from __future__ import annotations

import pytest

from tests.system.agreement import Kinds
from tests.system.conftest import Engine


def test_who_waits_judges_messages_by_what_is_said_after_the_deadline(engine: Engine) -> None:
    """To ask for thousands takes minutes on a slow machine. When the time is over by then, what was seen
    before is no reason to fail."""
    kinds = Kinds(engine)
    ids = kinds.send(6)
    kinds.wait(lambda m: m["status"] in {"sent", "delivered"})
    kinds.messages.clear()
    kinds.wait(lambda m: m["status"] in {"sent", "delivered"}, within_s=0)
    assert [m["id"] for m in kinds.messages] == ids
    with pytest.raises(AssertionError, match=r"'(sent|delivered)'"):
        kinds.wait(lambda m: m["status"] == "expired", within_s=0)
