"""`smsengine reload`: have the running engine read its configuration again, and wait for the outcome."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from engine.errors import ConfigError, EngineError
from supervisor.datadir import DataDir
from supervisor.process import snapshot

_LOOK_S = 0.05


class NotReloaded(EngineError):
    """The engine does not have the new configuration; the text says why."""


def reload_engine(data_dir: Path, timeout_s: float) -> None:
    """Send SIGHUP to the supervisor of the data directory, and wait until every process is replaced.

    Raises ConfigError when no engine runs there, or it is another user's; NotReloaded when the engine
    refused the configuration, went back to the one before, ended meanwhile or took longer than `timeout_s`.
    A second reload at the same time is no harm: both end when the last one does.
    """
    path = snapshot.path_in(data_dir)
    before = snapshot.read(path)
    if before is None:
        raise DataDir(data_dir).absence()
    try:
        os.kill(before.supervisor_pid, signal.SIGHUP)
    except OSError as e:
        raise ConfigError(
            f"The engine (process {before.supervisor_pid}) takes no signal: {e.strerror}."
        ) from e
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        now = snapshot.read(path)
        if now is None or now.supervisor_pid != before.supervisor_pid:
            raise NotReloaded("The engine ended while it was reloading.")
        if now.reloads_ended > before.reloads_begun:
            if now.reload_failure:
                raise NotReloaded(now.reload_failure)
            return
        time.sleep(_LOOK_S)
    raise NotReloaded(f"The reload was not over after {timeout_s:g} s; it goes on.")
