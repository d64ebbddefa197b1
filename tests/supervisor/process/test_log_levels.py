"""Each role has signals for its levels, as many as the system has; the last roles share theirs."""

from __future__ import annotations

import signal

from engine.config import ROLES
from supervisor.process.log_levels import LEVELS, SIGNUMS, roles_with, signums_of, wish


def test_each_level_of_each_role_has_a_signal_that_there_is() -> None:
    assert max(SIGNUMS) <= signal.SIGRTMAX
    for role in ROLES:
        for level in LEVELS:
            [signum] = signums_of(role, level)
            assert wish(signum) == (roles_with(role), level)
    for level in LEVELS:
        roles = [role for signum in signums_of(None, level) for role in wish(signum)[0]]
        assert roles == list(ROLES)
        assert {wish(signum)[1] for signum in signums_of(None, level)} == {level}
    # Those that deliver have their own.
    for role in ("ingest", "express", "normal", "ledger", "archiver", "notifier"):
        assert roles_with(role) == (role,)
