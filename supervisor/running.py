"""run/engine.json as the supervisor writes it: the running engine with its whole configuration.

Commands that only talk HTTP read less of it, `datadir.Address`: the configuration brings in every
kind of provider, which takes longer to load than such a command takes to run.
"""

from __future__ import annotations

from engine.config import Config
from supervisor.datadir import Address


class Running(Address, frozen=True, kw_only=True):
    """The engine that runs in a data directory, or ran there last."""

    pid: int
    # "" when no simulated provider was started.
    simulator_url: str
    # The configuration as it runs: all URLs filled in, passwords included.
    config: Config
