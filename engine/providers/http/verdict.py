"""What an HTTP request that was not answered says about its message."""

from __future__ import annotations

from engine.providers.http_client.connection import HttpOutcome
from engine.records import Verdict


def unanswered_verdict(provider: str, outcome: HttpOutcome) -> Verdict:
    """`temporary` when no byte of it left this process, else `unknown`; the code is the word for
    what went wrong on the way (`refused`, `timeout`, `reset`, ...)."""
    return Verdict(
        kind="temporary" if outcome.kind == "not_sent" else "unknown",
        provider=provider,
        code=outcome.reason,
        latency_us=outcome.latency_us,
    )
