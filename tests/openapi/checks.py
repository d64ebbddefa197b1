"""A check that Schemathesis does not have: 503 is an honest answer, but not for long.

On a busy machine a store may need longer than a call gives it. Then the answer is 503 with `Retry-After`, as
described. So such a call is repeated, and only one that has no other answer is a fault.
"""

from __future__ import annotations

import time

import schemathesis
from schemathesis import Case
from schemathesis.checks import CheckContext
from schemathesis.core.transport import Response

# Between repetitions, seconds.
_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


@schemathesis.check  # type: ignore[untyped-decorator]
def soon_available(_: CheckContext, response: Response, case: Case) -> None:
    """The call has another answer than 503, now or when it is repeated."""
    for pause_s in _PAUSES_S:
        if response.status_code != 503:
            return
        assert "retry-after" in response.headers, "An answer of 503 has no Retry-After."
        time.sleep(pause_s)
        response = case.call()
    assert response.status_code != 503, f"The answer stays 503: {response.text}"
