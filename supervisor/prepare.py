"""What is prepared before the roles start: tables, functions, first prices and routes, the demo organisation.

Each step runs in a child of its own, made by `child.run_once`, so that the forking parent
has no event loop and no connection. Each step may be repeated, also after it was killed at
any instruction: it finds what exists and adds what is missing.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import structlog

from engine import api_keys
from engine.config import Config, load
from engine.errors import ConfigError
from engine.nodes.records import NodeWish
from engine.organisations import NewOrganisation
from engine.providers.settings import SimulatedSettings
from engine.stores.migrate import migrate_postgres
from engine.stores.postgres.api_key_book import ApiKeyBook
from engine.stores.postgres.connection import confirm_session, connect
from engine.stores.postgres.directory import Directory
from engine.stores.postgres.durability import durability_warnings
from engine.stores.postgres.errors import translated
from engine.stores.postgres.layout import keep_shards
from engine.stores.postgres.nodes import PostgresNodeWishes
from engine.stores.postgres.pool import Pool
from engine.stores.postgres.prices import Prices
from engine.stores.postgres.routing import Routing
from engine.stores.ready_clickhouse import ready_clickhouse
from engine.stores.redis.fitness import fitness_of
from engine.stores.redis.link import RedisLink, load_functions
from engine.stores.redis.wire import ReplyError
from supervisor.datadir import DEFAULT, DataDir, is_made
from supervisor.embedded.servers import start_all
from supervisor.process.child import run_once
from supervisor.running import Running

STORES = ("postgres", "redis", "clickhouse")
DEMO_NAME = "demo"
DEMO_UNITS = 1_000_000
_DEMO_REFERENCE = "demo credit"
# Longest that a migration may take, seconds; large tables take long.
MIGRATE_S = 3600.0
_DEMO_S = 30.0
log = structlog.get_logger("prepare")

_REDIS_S, _POSTGRES_S = 5.0, 5.0


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """The demo organisation, ready to send."""

    organisation_id: int
    api_key: str


def with_urls(config: Config, urls: dict[str, str]) -> Config:
    """The configuration with these stores' URLs filled in."""
    stores = {name: msgspec.structs.replace(getattr(config, name), url=url) for name, url in urls.items()}
    return msgspec.structs.replace(config, **stores)


def with_simulator(config: Config, url: str) -> Config:
    """The configuration with this URL for every simulated provider that has none."""
    providers = [
        msgspec.structs.replace(p, url=url) if isinstance(p, SimulatedSettings) and not p.url else p
        for p in config.providers
    ]
    return msgspec.structs.replace(config, providers=providers)


def without_url(config: Config) -> set[str]:
    """The stores that the configuration leaves to embedded servers."""
    return {name for name in STORES if not getattr(config, name).url}


def migrate(config: Config, *, clickhouse_may_be_away: bool = False) -> tuple[Config, NodeWish]:
    """Bring tables and functions to this version. Returns the configuration with the number of
    shards that PostgreSQL keeps, and what operators wish of this node.

    Prices and routes that nobody has set yet are filled from the configuration. Raises ConfigError
    when a store cannot be used as it is, or keeps another number of shards than the configuration
    wants; ChildFailed when a store is away or the step takes longer than MIGRATE_S. With
    `clickhouse_may_be_away` a ClickHouse that was ready for this node before need not answer.
    """

    def step() -> object:
        return asyncio.run(_migrate(config, clickhouse_may_be_away=clickhouse_may_be_away))

    found = run_once(step, title="migrate", timeout_s=MIGRATE_S)
    shards, wish = msgspec.convert(found, tuple[int, NodeWish])
    return msgspec.structs.replace(config, shards=shards), wish


def migrate_only(config_file: Path | None, data_dir: Path | None) -> None:
    """Do what `smsengine migrate` does. Raises ConfigError, ChildFailed, as `migrate` does.

    Embedded servers that do not run are started, and stopped afterwards. Where there is no data directory
    yet, none is made: there is nothing to migrate.
    """
    config = load(config_file) if config_file else Config()
    directory = DataDir(data_dir or Path(config.data_dir or DEFAULT))
    wanted = without_url(config)
    running = directory.running(Running) if directory.holder() is not None else None
    if wanted and running is not None:
        migrate(with_urls(config, {name: getattr(running.config, name).url for name in wanted}))
        return
    if not wanted:
        migrate(config)
        return
    if not is_made(directory.path):
        raise ConfigError(
            f"There is nothing to migrate: there is no data directory {directory.path}, and no url of"
            f" {' and '.join(sorted(wanted))} in the configuration; name one of the two with --data-dir or"
            " --config."
        )
    directory.claim()
    try:
        servers = start_all(directory.path, wanted)
        try:
            migrate(with_urls(config, {name: server.url for name, server in servers.items()}))
        finally:
            for server in servers.values():
                server.stop(10.0)
    finally:
        directory.leave()


def prepare_demo(config: Config, known_key: str) -> Prepared:
    """Make the demo organisation and its credit, or find them again.

    `known_key` is the API key that it was given before, "" for none. Killed before the caller
    keeps the key: the organisation is found by its name and is given another key.
    Raises ConfigError, ChildFailed.
    """

    def step() -> object:
        return msgspec.to_builtins(asyncio.run(_prepare_demo(config, known_key)))

    return msgspec.convert(run_once(step, title="demo", timeout_s=_DEMO_S), Prepared)


async def _migrate(config: Config, *, clickhouse_may_be_away: bool = False) -> object:
    """Returns the number of shards that PostgreSQL keeps, and the wish of this node, as JSON has them."""
    await _check_redis(config)
    await _check_postgres(config)
    await migrate_postgres(config.postgres.url)
    shards = await keep_shards(config.postgres.url, config.shards)
    wish = await _seed(config)
    await ready_clickhouse(config, may_be_away=clickhouse_may_be_away)
    link = RedisLink(config.redis.url, timeout_s=_REDIS_S, name="migrate")
    try:
        await link.start()
        await load_functions(link)
    except ReplyError as e:
        raise ConfigError(
            f"Redis refuses the engine's functions ({e}); needed is Redis 7.0 or newer, or Valkey, and a "
            "user who may load functions."
        ) from e
    finally:
        await link.close()
    return msgspec.to_builtins((shards, wish))


async def _check_postgres(config: Config) -> None:
    """Raises ConfigError or Unavailable when PostgreSQL cannot be used; before anything is changed."""
    url = config.postgres.url
    await confirm_session(url, _POSTGRES_S)
    with translated(in_full=True):
        connection = await connect(url, timeout_s=_POSTGRES_S, command_timeout_s=_POSTGRES_S)
        try:
            for warning in await durability_warnings(connection):
                log.warning("postgres", warning=warning)
        finally:
            connection.terminate()


async def _check_redis(config: Config) -> None:
    """Raises ConfigError or Unavailable when Redis would lose messages; before anything is changed."""
    link = RedisLink(config.redis.url, timeout_s=_REDIS_S, name="migrate")
    try:
        fitness = fitness_of(await link.call("INFO"), config.redis.accepted_on)
    except ReplyError as e:
        raise ConfigError(f"Redis refuses INFO ({e}); needed is a user who may call it.") from e
    finally:
        await link.close()
    fitness.refuse()
    for warning in fitness.warnings:
        log.warning("redis", warning=warning)


async def _seed(config: Config) -> NodeWish:
    """Fill prices and routes from the configuration. Those that were ever set stay as they are. Returns what
    operators wish of this node."""
    pool = await Pool.connect(config.postgres.url)
    try:
        await Prices(pool).seed(config.prices)
        await Routing(pool).seed(config.routes)
        return await PostgresNodeWishes(pool).of(config.node_name)
    finally:
        await pool.close()


async def _prepare_demo(config: Config, known_key: str) -> Prepared:
    directory = await Directory.connect(config.postgres.url, shards=config.shards)
    try:
        found = await _known(directory, known_key) or await _named_or_new(directory)
        await directory.top_up(found.organisation_id, DEMO_UNITS, _DEMO_REFERENCE)
        return found
    finally:
        await directory.close()


async def _known(directory: Directory, key: str) -> Prepared | None:
    """The organisation that the key belongs to; None when it is no key, or is revoked."""
    parsed = api_keys.bearer_key(f"Bearer {key}")
    if parsed is None:
        return None
    key_id, secret = parsed
    credential = (await directory.credentials([key_id])).get(key_id)
    if credential is None or credential.secret_sha256 != api_keys.digest(secret):
        return None
    return Prepared(organisation_id=credential.organisation_id, api_key=key)


async def _named_or_new(directory: Directory) -> Prepared:
    """The organisation DEMO_NAME with one more API key, made where there is none."""
    after = 0
    while page := await directory.organisations(after, 1000):
        for organisation in page:
            if organisation.name == DEMO_NAME:
                made = await ApiKeyBook(directory.pool).create(organisation.id)
                return Prepared(organisation_id=organisation.id, api_key=made.api_key)
        after = page[-1].id
    new: NewOrganisation = await directory.create_organisation(DEMO_NAME)
    return Prepared(organisation_id=new.id, api_key=new.api_key)
