"""Rule: when a delivery is tried again, and when it has failed.

The pauses are 5 s, 10 s, 20 s and so on, each twice the one before, up to 81,920 s (22 h 45 min): 15 of
them, so 16 attempts in a little more than 45 hours. A pause may be longer by up to a tenth, so that what
failed together is not tried again together.

    2xx                          delivered
    4xx but 429                  failed at once: the endpoint has judged the event. It may be replayed
    an address that is refused   failed at once
    429, 5xx, 3xx, no answer     tried again after the next pause; a redirect is not followed
"""

from __future__ import annotations

from random import Random
from typing import Literal

FIRST_PAUSE_S = 5.0
ATTEMPTS_MAX = 16
# From the first attempt to the last when each is made in time, seconds.
WHOLE_S = FIRST_PAUSE_S * (2 ** (ATTEMPTS_MAX - 1) - 1)
# What a pause may be longer, a part of it.
_JITTER = 0.1
# The word for an address that webhooks may not reach.
REFUSED_ADDRESS = "address-refused"

Verdict = Literal["delivered", "again", "failed"]


def pause_s(attempts: int, rng: Random) -> float:
    """The pause after so many failed attempts, from 1, seconds."""
    return FIRST_PAUSE_S * 2.0 ** (min(attempts, ATTEMPTS_MAX) - 1) * (1 + _JITTER * rng.random())


def verdict_of(status: int, reason: str) -> Verdict:
    """What an attempt with this answer was; status 0: there was no whole answer, for `reason`."""
    if 200 <= status < 300:
        return "delivered"
    if reason == REFUSED_ADDRESS or (400 <= status < 500 and status != 429):
        return "failed"
    return "again"


def has_failed(attempts: int, age_s: float) -> bool:
    """Whether a delivery is given up after so many failed attempts, `age_s` seconds after it was first
    kept."""
    return attempts >= ATTEMPTS_MAX or age_s > WHOLE_S * (1 + _JITTER)
