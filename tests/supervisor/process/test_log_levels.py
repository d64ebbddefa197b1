"""Each role has signals for its levels, as many as the system has."""

from __future__ import annotations

import signal

from engine.config import ROLES
from supervisor.process.log_levels import LEVELS, SIGNUMS, signums_of, wish


def test_each_level_of_each_role_has_a_signal_that_there_is() -> None:
    assert max(SIGNUMS) <= signal.SIGRTMAX, "a role more than there are signals for"
    wishes = [(role, level) for role in ROLES for level in LEVELS]
    assert [[wish(signum) for signum in signums_of(*wanted)] for wanted in wishes] == [[w] for w in wishes]
    for level in LEVELS:
        assert [wish(signum) for signum in signums_of(None, level)] == [(role, level) for role in ROLES]
    assert len(set(SIGNUMS)) == len(wishes)
