"""Settings: one TOML file, decoded once into frozen records.

Only this room, `engine.boot` and the supervisor read files and the environment. Every other part is given the
settings that it needs as plain arguments.
"""

from __future__ import annotations

import socket
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from engine import text_file
from engine.config.activity import ActivitySettings
from engine.config.activity import wrong as wrong_activity
from engine.config.addresses import UNIX, is_address, split_listen
from engine.config.autoscale import Autoscale
from engine.config.autoscale import wrong as wrong_autoscale
from engine.config.credentials import with_credentials
from engine.config.errors import sentence_of
from engine.config.http import Http
from engine.config.stores import ClickHouse, Redis, Store, with_whole_url
from engine.errors import ConfigError
from engine.inbound.settings import Inbound
from engine.intake.pricing import first_wrong as first_wrong_price
from engine.networks import NETWORKS_ALLOWED, networks_of
from engine.providers.masking import printable
from engine.providers.settings import ProviderSettings, wrong_setting
from engine.records import QUEUES, Queue
from engine.routing.records import Route
from engine.routing.routes import first_wrong as first_wrong_route
from engine.text_file import NotUtf8

Role = Literal["ingest", "express", "normal", "ledger", "archiver", "notifier", "admin", "node"]
# In the order in which they start; they are drained in the order of DRAIN_ORDER.
ROLES: tuple[Role, ...] = (
    "ledger", "archiver", "notifier", "express", "normal", "ingest", "admin", "node",
)  # fmt: skip
# The number of shards of new data when the file names none, and the largest number.
SHARDS_DEFAULT, SHARDS_MAX = 16, 256
# Producers stop before consumers, so that nothing is left in hand; whoever looks on can do so to the end.
DRAIN_ORDER: tuple[Role, ...] = (
    "ingest", "express", "normal", "ledger", "archiver", "notifier", "admin", "node",
)  # fmt: skip

# What a process needs to work at all, MiB.
_MEMORY_MIN_MB = 128
# How the URL of each store begins.
_SCHEMES = {
    "redis": ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel"),
    "postgres": ("postgresql", "postgres"),
    "clickhouse": ("http", "https"),
}


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Admin(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[admin]`: where the admin calls and /metrics are answered."""

    # HOST:PORT, or unix:/PATH for a Unix socket. "" means 127.0.0.1 and the port after that of http.listen.
    listen: str = ""
    # The group whose members may connect to the Unix socket; "" means the user of the engine alone.
    socket_group: str = ""
    # Answer these calls at http.listen too, as versions did that had no address for them.
    public: bool = False
    # Serve the pages of the web console at /console of this address.
    console: bool = True


class Compatible(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[compatible]`: where calls of other gateways are understood (docs/compatible.md)."""

    # HOST:PORT. "" means nowhere.
    listen: str = ""


Processes = Annotated[int, Meta(ge=0, le=256)]


class Roles(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[roles]`: how many processes of each role one node runs."""

    ingest: Processes = 1
    express: Processes = 1
    normal: Processes = 1
    ledger: Processes = 1
    archiver: Processes = 1
    notifier: Processes = 1

    @property
    def admin(self) -> int:
        """One on every node, whatever else it runs: without it nobody could look at the node."""
        return 1

    def workers(self) -> dict[Queue, int]:
        """By queue, how many processes send its messages."""
        return {"express": self.express, "normal": self.normal}

    @property
    def node(self) -> int:
        """Every node has one process that speaks for it."""
        return 1


class QueueSettings(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[queues.normal]`: how the messages of a queue are sent."""

    # Sends in flight in one worker.
    concurrency: Annotated[int, Meta(ge=1, le=10_000)] = 200
    # The validity of a message when the caller names none, seconds.
    validity_s: Annotated[int, Meta(ge=1, le=7 * 86400)] = 86400
    # The first pause after a temporary failure, seconds. Each one after it is twice as long, up to
    # `backoff_max_s`, with jitter.
    backoff_s: Annotated[float, Meta(gt=0, le=3600)] = 1.0
    backoff_max_s: Annotated[float, Meta(gt=0, le=86400)] = 60.0
    # What becomes of a message that was sent and whose outcome nobody knows: the provider did not answer,
    # its answer was not understood, or the worker died meanwhile. `at-least-once` sends it again, so
    # the recipient may get it twice. `at-most-once` never does.
    unknown_outcome: Literal["at-least-once", "at-most-once"] = "at-least-once"
    # After so many such sends the message is at its end, with the status `outcome_unknown`. With
    # at-most-once it is always 1.
    unknown_outcomes_max: Annotated[int, Meta(ge=1, le=100)] = 3
    # The charge of such a message. The default with at-least-once is `captured`: it was sent several
    # times, so at least one provider has probably delivered it, and asks to be paid. With at-most-once it
    # is `released`: it was sent once, or, when its worker died, perhaps not at all.
    unknown_outcome_charge: Literal["captured", "released"] | None = None
    # When a provider takes longer to answer than it usually does, send the message through another
    # provider before the time-out; only when the outcome of one more send may be unknown.
    hedge: bool = False


class ExpressSettings(QueueSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[queues.express]`: as `QueueSettings`, with other defaults."""

    validity_s: Annotated[int, Meta(ge=1, le=7 * 86400)] = 300
    backoff_s: Annotated[float, Meta(gt=0, le=3600)] = 0.5
    backoff_max_s: Annotated[float, Meta(gt=0, le=86400)] = 15.0
    hedge: bool = True


class Queues(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[queues]`: the settings of both queues."""

    express: ExpressSettings = ExpressSettings()
    normal: QueueSettings = QueueSettings()

    def of(self, queue: Queue) -> QueueSettings:
        """The settings of one queue."""
        return self.express if queue == "express" else self.normal

    def validities_s(self) -> dict[Queue, int]:
        """By queue, the validity of a message that names none, seconds."""
        return {queue: self.of(queue).validity_s for queue in QUEUES}


class Credit(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[credit]`: how quota is handed out."""

    # A quota should last this long at the observed rate, seconds.
    quota_s: Annotated[float, Meta(ge=0.1, le=3600)] = 2.0
    # Smallest quota asked for, units.
    quota_min: Annotated[int, Meta(ge=1, le=1_000_000)] = 100
    # Quota that is not used for this long is returned, seconds. A long time does no harm, because
    # quota that another process needs is recalled at once.
    validity_s: Annotated[float, Meta(ge=1, le=7 * 86400)] = 3600.0
    # A process without a heartbeat for this long counts as dead, and its quota is freed, seconds.
    overdue_s: Annotated[float, Meta(ge=5, le=3600)] = 15.0
    # A process that starts asks for quota of at most this many organisations that have spent units.
    prefetch_max: Annotated[int, Meta(ge=0, le=1_000_000)] = 100_000
    # Applied usage stays in Redis for this long, seconds, and until every standby of PostgreSQL has it. A
    # PostgreSQL that went back by less applies it again and loses no charge. A minute is more than
    # asynchronous standbys are usually behind, and costs little memory.
    usage_kept_s: Annotated[float, Meta(ge=10, le=7 * 86400)] = 60.0
    # At most so many entries of usage stay, whatever a standby lacks. One takes about 150 bytes of Redis.
    usage_kept_max: Annotated[int, Meta(ge=10_000, le=100_000_000)] = 500_000


class ProcessSettings(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[processes]`: what bounds each process of a role."""

    # A process with more resident memory than this is replaced by a new one and drains, MiB; 0: no bound.
    memory_max_mb: Annotated[int, Meta(ge=0, le=1_048_576)] = 0
    # CPUs for the processes: each is given one, in turn. Empty: the kernel moves them as it likes.
    cpus: list[Annotated[int, Meta(ge=0, le=8191)]] = []


class Logs(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[logs]`: what is written to stderr."""

    # key=value for people, or one JSON object a line.
    format: Literal["text", "json"] = "text"
    # Lines below this level are left out.
    level: Literal["debug", "info", "warning", "error"] = "info"


class Limits(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[limits]`: of organisations of which nothing else was set (`smsengine org limits`)."""

    # Most messages of an organisation that wait in both queues; more are answered 429.
    backlog_max: Annotated[int, Meta(ge=1_000, le=1_000_000_000)] = 1_000_000


class NotifierSettings(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[notifier]`: how webhooks are delivered."""

    # An attempt without a whole answer ends after this time, seconds.
    timeout_s: Annotated[float, Meta(ge=0.1, le=60)] = 10.0
    # Requests in flight from one process to one origin (scheme, host and port) of an organisation.
    connections_max: Annotated[int, Meta(ge=1, le=100)] = 8
    # Let webhooks reach private, loopback and link-local addresses: for tests and demonstrations, and where
    # all organisations are trusted like the operator.
    allow_private: bool = False
    # A file with the authorities, in PEM form, that https:// endpoints are checked against; "": the system's.
    tls_ca_file: str = ""


class Config(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    # Name of this node in the names of its processes; "" means the host name.
    node: str = ""
    data_dir: str = ""
    # The number of shards. It is kept with the data at the first start and cannot be changed
    # (`engine.stores.postgres.layout`). When the file names none, this is 0: the number that is kept,
    # or 16 for new data.
    shards: Annotated[int, Meta(ge=1, le=SHARDS_MAX)] = 0
    http: Http = Http()
    admin: Admin = Admin()
    compatible: Compatible = Compatible()
    redis: Redis = Redis()
    postgres: Store = Store()
    clickhouse: ClickHouse = ClickHouse()
    roles: Roles = Roles()
    queues: Queues = Queues()
    providers: list[ProviderSettings] = []
    # They fill the table in PostgreSQL while it is empty. From then on that table counts, see
    # `smsengine route`.
    routes: list[Route] = []
    # Units a segment by prefix of the destination; the longest match counts, and "" matches all. They
    # fill the table in PostgreSQL while it is empty. From then on that table counts, see
    # `smsengine price`.
    prices: dict[str, int] = msgspec.field(default_factory=lambda: {"": 1})
    credit: Credit = Credit()
    processes: ProcessSettings = ProcessSettings()
    logs: Logs = Logs()
    notifier: NotifierSettings = NotifierSettings()
    limits: Limits = Limits()
    activity: ActivitySettings = ActivitySettings()
    inbound: Inbound = Inbound()
    autoscale: Autoscale = Autoscale()
    # A worker that has not settled an entry for this long loses it to another worker, seconds.
    take_over_s: Annotated[float, Meta(ge=1, le=3600)] = 60.0

    @property
    def node_name(self) -> str:
        """`node`, or the host name when it is ""."""
        return self.node or socket.gethostname()

    @property
    def admin_listen(self) -> str:
        """`admin.listen`, or what it means when it is "". Port 0, a free one, stays a free one."""
        if self.admin.listen:
            return self.admin.listen
        port = (split_listen(self.http.listen) or ("", 0))[1]
        return f"127.0.0.1:{port and port % 65535 + 1}"


def decode(text: str, origin: str) -> Config:
    """Settings from TOML text; `origin` names the text in errors.

    Raises ConfigError, which names the setting and what is allowed.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"{origin} is not TOML: {e}.") from e
    providers = tables.get("providers")
    for provider in providers if isinstance(providers, list) else ():
        if isinstance(provider, dict):
            # Older files name no type, because this was the only one.
            provider.setdefault("type", "simulated")
    try:
        config = msgspec.convert(tables, Config)
    except msgspec.ValidationError as e:
        raise ConfigError(printable(f"{origin}: {sentence_of(e, tables, Config)}.")) from e
    return _checked(config, origin)


def load(path: Path) -> Config:
    """Settings from a TOML file in UTF-8, with or without a byte order mark. Raises ConfigError."""
    try:
        text = text_file.read(path)
    except (OSError, NotUtf8) as e:
        reason = e.strerror if isinstance(e, OSError) else e
        raise ConfigError(f"The configuration {path} cannot be read: {reason}.") from e
    return decode(text, str(path))


def _wrong_url(config: Config) -> tuple[str, str] | None:
    """The setting of a store's URL that cannot be, and what is allowed; None when all are right."""

    for store, schemes in _SCHEMES.items():
        url = getattr(config, store).url
        if url and url.partition("://")[0] not in schemes:
            return f"{store}.url", f"a URL that begins with {' or '.join(f'{s}://' for s in schemes)}"
    urls, schemes = config.clickhouse.urls, _SCHEMES["clickhouse"]
    if urls and config.clickhouse.url:
        return "clickhouse.url", "left out beside clickhouse.urls"
    if len(set(urls)) < len(urls) or any(url.partition("://")[0] not in schemes for url in urls):
        return "clickhouse.urls", "different URLs that begin with http:// or https://"
    if any(len(url.split()) != 1 for url in urls or [config.clickhouse.url or "none"]):
        return "clickhouse.urls" if urls else "clickhouse.url", "without white space"
    return None


def _checked(config: Config, origin: str) -> Config:
    def need(holds: bool, setting: str, allowed: str) -> None:
        if not holds:
            raise ConfigError(printable(f"{origin}: {setting} must be {allowed}."))

    config = msgspec.structs.replace(
        config,
        http=with_credentials(config.http),
        activity=with_credentials(config.activity),
        providers=[with_credentials(p) for p in config.providers],
        **{store: with_credentials(getattr(config, store)) for store in _SCHEMES},
    )
    need(len(split_listen(config.http.listen)) == 2, "http.listen", "HOST:PORT")
    need(is_address(config.admin_listen), "admin.listen", "HOST:PORT, or unix: and an absolute path")
    proxies = networks_of(config.http.trusted_proxies)
    need(proxies is not None, "http.trusted_proxies", NETWORKS_ALLOWED)
    compatible = config.compatible.listen
    need(not compatible or len(split_listen(compatible)) == 2, "compatible.listen", "HOST:PORT, or empty")
    unix = config.admin_listen.startswith(UNIX)
    need(unix or not config.admin.socket_group, "admin.socket_group", "left out without a Unix socket")
    if wrong := _wrong_url(config):
        need(False, *wrong)
    try:
        stores = {name: with_whole_url(name, getattr(config, name)) for name in _SCHEMES}
        activity = wrong_activity(config.activity, own_store=not stores["clickhouse"].url)
    except ConfigError as e:
        raise ConfigError(f"{origin}: {e}") from e
    config = msgspec.structs.replace(config, **stores)
    if activity:
        need(False, *activity)
    replicated = config.redis.accepted_on == 1 or bool(config.redis.url)
    need(replicated, "redis.accepted_on", "1 without redis.url, because the embedded Redis has no replicas")
    for queue in ("express", "normal"):
        settings: QueueSettings = getattr(config.queues, queue)
        fits = settings.backoff_s <= settings.backoff_max_s
        need(fits, f"queues.{queue}.backoff_s", "at most backoff_max_s")
    bound = config.processes.memory_max_mb
    need(bound == 0 or bound >= _MEMORY_MIN_MB, "processes.memory_max_mb", f"0 or at least {_MEMORY_MIN_MB}")
    for setting, allowed in wrong_autoscale(config.autoscale, config.roles.workers()):
        need(False, setting, allowed)
    names = [p.name for p in config.providers]
    need(len(set(names)) == len(names), "providers", "named differently from one another")
    for p in config.providers:
        if wrong := wrong_setting(p, timeout_s_max=config.take_over_s / 2):
            need(False, *wrong)
    if wrong := first_wrong_price(config.prices) or first_wrong_route(config.routes, names):
        need(False, *wrong)
    return config
