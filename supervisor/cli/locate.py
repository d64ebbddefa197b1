"""How a command finds the engine it talks to, and the key to talk with.

Options come first, then the variables SMSENGINE_URL, SMSENGINE_ADMIN_URL, SMSENGINE_API_KEY and
SMSENGINE_ADMIN_KEY. What neither gives comes from the data directory of an engine that runs on this machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine.errors import ConfigError
from supervisor.cli.answers import Status
from supervisor.cli.client import Client
from supervisor.datadir import DEMO_API_KEY, Address, DataDir, read_secret


@dataclass(frozen=True, kw_only=True)
class Whereabouts:
    """Which engine the user named, and the keys; "" for what the user left open."""

    data_dir: Path
    url: str = ""
    api_key: str = ""
    admin_key: str = ""

    def customer(self, timeout_s: float = 30.0) -> Client:
        """A client with an organisation's key; `timeout_s` is for each answer.

        Raises ConfigError when there is no URL or no key, or one of them is not valid.
        """
        running = self._running()
        url = running.url if running else self._named_url()
        key = self.api_key or (DataDir(self.data_dir).known_secret(DEMO_API_KEY) if running else "")
        if not key:
            raise ConfigError(
                "An API key is needed: --api-key or SMSENGINE_API_KEY "
                "(`smsengine org create NAME` makes an organisation with one)."
            )
        return Client(url, key, timeout_s)

    def admin(self, timeout_s: float = 30.0) -> Client:
        """A client with the admin key; `timeout_s` is for each answer.

        Raises ConfigError when there is no URL or no key, or one of them is not valid.
        """
        running = self._running()
        url = (running.admin_url or running.url) if running else self._named_url()
        key = self.admin_key or (read_secret(Path(running.admin_key_file)) if running else "")
        if not key:
            raise ConfigError("The admin key is needed: --admin-key or SMSENGINE_ADMIN_KEY.")
        return Client(url, key, timeout_s)

    def node(self) -> str:
        """The name of the node that runs in the data directory.

        Raises ConfigError when there is none, or the user named another engine: behind its URL may be many.
        """
        seen = self.own_status("")
        if seen is None or not seen.node:
            raise ConfigError(
                "The name of a node is needed: no node runs in the data directory "
                f"{self.data_dir} (`smsengine node list` shows all)."
            )
        return seen.node

    def own_status(self, why: str) -> Status | None:
        """The status without the API: the processes, as the supervisor of the data directory last wrote them.

        `why`: a sentence on why the rest is not known. None when the user named another engine.
        """
        if self._running() is None:
            return None
        try:
            content = Path(self.data_dir, "run", "processes.json").read_bytes()
            seen = msgspec.json.decode(content, type=Status)
        except (OSError, msgspec.MsgspecError):
            return None
        return msgspec.structs.replace(seen, missing={"everything else": why})

    def _running(self) -> Address | None:
        """The engine of the data directory; None when there is none, or the user named another by its URL.

        Either of its addresses names it. Nothing is believed of an engine that has died.
        """
        directory = DataDir(self.data_dir)
        running = None if directory.has_died() else directory.running(Address)
        if running is None or (self.url and self.url.rstrip("/") not in (running.url, running.admin_url)):
            # Keys of this directory are never sent to another engine.
            return None
        return running

    def _named_url(self) -> str:
        if not self.url:
            raise DataDir(self.data_dir).absence()
        return self.url
