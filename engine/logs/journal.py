"""Whether stderr is the journal of systemd, and how a line says its priority there."""

from __future__ import annotations

import os
from collections.abc import Mapping

# The priorities of syslog(3), by the levels of our logs; `<N>` at the beginning of a line (sd-daemon(3)).
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def in_journal(environment: Mapping[str, str]) -> bool:
    """Whether stderr is the journal's: systemd names device and inode of it in JOURNAL_STREAM."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def last_sentence(sentence: str) -> str:
    """A sentence of the program to its operator as a line for stderr, with its newline."""
    priority = f"<{PRIORITIES['error']}>" if in_journal(os.environ) else ""
    return f"{priority}smsengine: {' '.join(sentence.split())}\n"
