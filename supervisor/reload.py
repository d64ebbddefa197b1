"""What may change when the configuration is read again while the engine runs.

Some settings belong to parts that go on running: the stores, the socket, the ledger, the names
by which others know this node. A file that changes one of them is refused as a whole, so that
nobody believes the change to be in force. Prices and routes are not compared: after the first
start their tables decide.
"""

from __future__ import annotations

from operator import attrgetter

import msgspec

from engine.config import Config
from engine.errors import ConfigError
from engine.providers.settings import needs_simulator
from engine.stores.postgres.layout import agreed
from supervisor.prepare import STORES, with_simulator

_FIXED = (
    "node",
    "data_dir",
    *(f"{store}.url" for store in STORES),
    "http.listen",
    "admin.listen",
    "admin.socket_group",
    "http.admin_key_file",
    "credit.overdue_s",
    "activity.numbers",
    "activity.numbers_key_file",
)


def carried_on(before: Config, read: Config, running: Config, simulator_url: str) -> Config:
    """The configuration for new processes of the running engine: `read` with the URLs and shards in use.

    `before` is the configuration as it was read at the start, `running` the same with the URLs
    of the embedded servers. `simulator_url` is "" when the simulated provider was not started.
    Raises ConfigError that names a setting which only a restart can change.
    """
    for setting in _FIXED:
        if attrgetter(setting)(before) != attrgetter(setting)(read):
            raise ConfigError(f"{setting} cannot be changed while the engine runs; restart it for that.")
    agreed(running.shards, read.shards)
    simulated = next(filter(needs_simulator, read.providers), None)
    if simulated is not None and not simulator_url:
        raise ConfigError(
            f"providers.{simulated.name}.url must be given: a simulated provider of the engine's own is only "
            "started together with it."
        )
    stores = {store: getattr(running, store) for store in STORES}
    # The key may be one of the data directory.
    file = running.activity.numbers_key_file
    activity = msgspec.structs.replace(read.activity, numbers_key_file=file)
    carried = msgspec.structs.replace(read, **stores, activity=activity, shards=running.shards)
    return with_simulator(carried, simulator_url)
