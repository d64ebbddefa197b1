"""Settings: one TOML file, decoded once into frozen records.

Below `engine/boot/` and the supervisor nothing reads a file or the environment; what a
part needs is given to it as plain arguments.
"""

from __future__ import annotations

import socket
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from engine.config.errors import sentence_of
from engine.errors import ConfigError
from engine.intake.pricing import first_wrong as first_wrong_price
from engine.providers.settings import ProviderSettings, wrong_setting
from engine.records import QUEUES, Queue
from engine.routing.records import Route
from engine.routing.routes import first_wrong as first_wrong_route

Role = Literal["ingest", "express", "normal", "ledger", "archiver"]
# In the order in which they start; they are drained in the order of DRAIN_ORDER.
ROLES: tuple[Role, ...] = ("ledger", "archiver", "express", "normal", "ingest")
# Shards of data that are new and of which the file does not say how many; and how many at most.
SHARDS_DEFAULT, SHARDS_MAX = 16, 256
# Whoever produces stops before whoever consumes, so that nothing is left in hand.
DRAIN_ORDER: tuple[Role, ...] = ("ingest", "express", "normal", "ledger", "archiver")


# How the URL of each store begins.
_SCHEMES = {
    "redis": ("redis", "rediss", "unix"),
    "postgres": ("postgresql", "postgres"),
    "clickhouse": ("http", "https"),
}


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Http(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    # HOST:PORT of the API.
    listen: str = "127.0.0.1:8080"
    # Largest request body, bytes.
    body_bytes_max: Annotated[int, Meta(ge=1024, le=64 * 1024 * 1024)] = 4 * 1024 * 1024
    # A request not answered by then gets 503, seconds.
    timeout_s: Annotated[float, Meta(ge=0.1, le=600)] = 10.0
    # File with the key of the admin calls; "": `secrets/admin_key` in the data directory.
    admin_key_file: str = ""


class Store(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    # "" means: start an embedded server under the data directory.
    url: str = ""


Processes = Annotated[int, Meta(ge=0, le=256)]


class Roles(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many processes of each role."""

    ingest: Processes = 1
    express: Processes = 1
    normal: Processes = 1
    ledger: Processes = 1
    archiver: Processes = 1


class QueueSettings(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    # Sends in flight per worker process.
    concurrency: Annotated[int, Meta(ge=1, le=10_000)] = 200
    # How long a message may be tried when the caller does not say, seconds.
    validity_s: Annotated[int, Meta(ge=1, le=7 * 86400)] = 86400
    # First pause after a temporary failure; doubles, with jitter, up to the second, seconds.
    backoff_s: Annotated[float, Meta(gt=0, le=3600)] = 1.0
    backoff_max_s: Annotated[float, Meta(gt=0, le=86400)] = 60.0
    # What becomes of a message that was sent and never answered: `at-least-once` sends it again,
    # and the recipient may get it twice; `at-most-once` gives it up, unpaid.
    unknown_outcome: Literal["at-least-once", "at-most-once"] = "at-least-once"
    # A message whose provider takes longer to answer than it ever does goes to another provider
    # at once, before the time-out; only with at-least-once.
    hedge: bool = False


class ExpressSettings(QueueSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is different for express where the configuration does not say."""

    validity_s: Annotated[int, Meta(ge=1, le=7 * 86400)] = 300
    backoff_s: Annotated[float, Meta(gt=0, le=3600)] = 0.5
    backoff_max_s: Annotated[float, Meta(gt=0, le=86400)] = 15.0
    hedge: bool = True


class Queues(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    express: ExpressSettings = ExpressSettings()
    normal: QueueSettings = QueueSettings()

    def of(self, queue: Queue) -> QueueSettings:
        return self.express if queue == "express" else self.normal

    def validities_s(self) -> dict[Queue, int]:
        """The validity of a message that names none, by its queue, seconds."""
        return {queue: self.of(queue).validity_s for queue in QUEUES}


class Credit(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    # A quota is meant to last this long at the observed rate, seconds.
    quota_s: Annotated[float, Meta(ge=0.1, le=3600)] = 2.0
    # Smallest quota asked for, units.
    quota_min: Annotated[int, Meta(ge=1, le=1_000_000)] = 100
    # Quota not used for this long is returned, seconds. It may be long: quota that another
    # process needs is recalled at once.
    validity_s: Annotated[float, Meta(ge=1, le=7 * 86400)] = 3600.0
    # A process not heard of for this long is taken for dead and its quota for free, seconds.
    overdue_s: Annotated[float, Meta(ge=5, le=3600)] = 15.0
    # A process that starts asks for quota of this many organisations that have been spending.
    prefetch_max: Annotated[int, Meta(ge=0, le=1_000_000)] = 100_000


class Config(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    # Name of this machine in holder names and the activity.
    node: str = ""
    data_dir: str = ""
    # Streams are spread over this many shards. Kept with the data at the first start and never
    # changed (`engine.stores.postgres.layout`); not given, 0 here: as it is kept, and 16 for new data.
    shards: Annotated[int, Meta(ge=1, le=SHARDS_MAX)] = 0
    http: Http = Http()
    redis: Store = Store()
    postgres: Store = Store()
    clickhouse: Store = Store()
    roles: Roles = Roles()
    queues: Queues = Queues()
    providers: list[ProviderSettings] = []
    # These fill an empty table in PostgreSQL; from then on that table rules: see `smsengine route`.
    routes: list[Route] = []
    # Units per segment by destination prefix, longest match; "" matches all. These fill an empty
    # table in PostgreSQL; from then on that table rules: see `smsengine price`.
    prices: dict[str, int] = msgspec.field(default_factory=lambda: {"": 1})
    credit: Credit = Credit()
    # A worker that sits on an entry for this long loses it to another, seconds.
    take_over_s: Annotated[float, Meta(ge=1, le=3600)] = 60.0

    @property
    def node_name(self) -> str:
        return self.node or socket.gethostname()


def decode(text: str, origin: str) -> Config:
    """Settings from TOML text; `origin` names the text in errors.

    Raises ConfigError naming the setting and what is allowed.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"{origin} is not TOML: {e}.") from e
    providers = tables.get("providers")
    for provider in providers if isinstance(providers, list) else ():
        if isinstance(provider, dict):
            # The kind there was before there were others.
            provider.setdefault("type", "simulated")
    try:
        config = msgspec.convert(tables, Config)
    except msgspec.ValidationError as e:
        raise ConfigError(f"{origin}: {sentence_of(e, tables, Config)}.") from e
    return _checked(config, origin)


def load(path: Path) -> Config:
    """Settings from a TOML file in UTF-8, with or without a byte order mark. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "not UTF-8"
        raise ConfigError(f"The configuration {path} cannot be read: {reason}.") from e
    return decode(text, str(path))


def _checked(config: Config, origin: str) -> Config:
    def need(holds: bool, setting: str, allowed: str) -> None:
        if not holds:
            raise ConfigError(f"{origin}: {setting} must be {allowed}.")

    need(len(split_listen(config.http.listen)) == 2, "http.listen", "HOST:PORT")
    for store, schemes in _SCHEMES.items():
        url = getattr(config, store).url
        allowed = f"a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}"
        need(not url or url.partition("://")[0] in schemes, f"{store}.url", allowed)
    for queue in ("express", "normal"):
        settings: QueueSettings = getattr(config.queues, queue)
        fits = settings.backoff_s <= settings.backoff_max_s
        need(fits, f"queues.{queue}.backoff_s", "at most backoff_max_s")
    names = [p.name for p in config.providers]
    need(len(set(names)) == len(names), "providers", "named differently from one another")
    for p in config.providers:
        if wrong := wrong_setting(p, timeout_s_max=config.take_over_s / 2):
            need(False, *wrong)
    if wrong := first_wrong_price(config.prices) or first_wrong_route(config.routes, names):
        need(False, *wrong)
    return config


def split_listen(listen: str) -> tuple[str, int] | tuple[()]:
    """("127.0.0.1", 8080) from "127.0.0.1:8080"; () when it is not HOST:PORT."""
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        return ()
    return host.strip("[]"), int(port)
