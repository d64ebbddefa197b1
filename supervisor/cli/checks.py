"""`smsengine check`: whether each part can be reached, is new enough and is set up.

It changes nothing. Each check ends within its time-out and says in one line what it found.
A check that fails does not keep the others from being made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from engine.clocks.clock_estimate import NOTABLE_US, OFF_MAX_US, difference, measured
from engine.clocks.store_clock import steady_us, wall_us
from engine.config import Config, load
from engine.errors import ConfigError, EngineError, Refusal
from engine.providers.custom import factory_of
from engine.providers.settings import (
    CustomSettings,
    HttpSettings,
    ProviderSettings,
    SimulatedSettings,
    SmppSettings,
    needs_simulator,
)
from engine.stores import migrate
from engine.stores.clickhouse import client as clickhouse_client
from engine.stores.clickhouse.division import all_of, urls_of
from engine.stores.clickhouse.division_mark import confirm_divisions
from engine.stores.clickhouse.rights import confirm_rights
from engine.stores.postgres.connection import confirm_session, connect
from engine.stores.postgres.durability import durability_warnings
from engine.stores.postgres.errors import translated
from engine.stores.postgres.going_back import standby_warnings
from engine.stores.postgres.layout import agreed
from engine.stores.postgres.unbooked import unbooked_in_all
from engine.stores.redis.fitness import fitness_of, info_fields
from engine.stores.redis.link import RedisLink
from engine.stores.redis.lua_libraries import PATTERN, libraries
from engine.stores.redis.wire import ReplyError
from engine.written_numbers import is_whole
from supervisor.cli.client import Client
from supervisor.cli.show import suspended
from supervisor.datadir import DEFAULT, DataDir
from supervisor.prepare import with_urls, without_url
from supervisor.running import Running

POSTGRES_MIN = 14
REDIS_MIN = (7, 0)
CLICKHOUSE_MIN = (23, 8)
_TIMEOUT_S = 5.0
_SCRIPTS = Path(migrate.__file__).parent
_OUTDATED = "tables are not of this version: run `smsengine migrate`"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The result for one part, with one line for a person."""

    part: str
    ok: bool
    detail: str


class _NotOk(Exception):
    """The part is there but not as it should be; the text says why."""


def check_all(config_file: Path | None, data_dir: Path | None, url: str) -> list[Check]:
    """Check all parts of the engine in the data directory, or of the one that a configuration describes.

    `url` is that of the API, "" for that of the running engine. Raises ConfigError when the
    configuration, or the data directory, cannot be read.
    """
    config, running = configuration(config_file, data_dir)
    here = running if not url else None
    return asyncio.run(_check_all(config, here.url if here else url, here.admin_url if here else ""))


def configuration(config_file: Path | None, data_dir: Path | None) -> tuple[Config, Running | None]:
    """The configuration that a command looks at, and the engine that runs in the data directory.

    What `config_file` leaves open is as the running engine has it. Raises ConfigError when the file, or
    the data directory, cannot be read.
    """
    configured = load(config_file) if config_file else None
    directory = DataDir(
        data_dir or Path(configured.data_dir if configured and configured.data_dir else DEFAULT)
    )
    running = directory.running(Running) if directory.holder() is not None else None
    return _effective(configured, running), running


def _effective(configured: Config | None, running: Running | None) -> Config:
    """The configuration to check. What `configured` leaves open is as the running engine has it."""
    if configured is None:
        return running.config if running is not None else Config()
    if running is None:
        return configured
    urls = {name: getattr(running.config, name).url for name in without_url(configured)}
    simulated = any(map(needs_simulator, configured.providers))
    providers = running.config.providers if simulated else configured.providers
    return msgspec.structs.replace(with_urls(configured, urls), providers=providers)


async def _check_all(config: Config, url: str, admin_url: str = "") -> list[Check]:
    stores: dict[str, Callable[[str], Awaitable[str]]] = {
        "postgres": partial(_postgres, shards=config.shards),
        "redis": partial(_redis, accepted_on=config.redis.accepted_on),
        "clickhouse": _clickhouse,
    }
    checks = [_store(name, getattr(config, name).url, look) for name, look in stores.items()]
    checks += [_check(f"provider {p.name}", _provider(p)) for p in config.providers]
    checks.append(_check("api", _api(url, "/readyz")))
    if admin_url:
        checks.append(_check("admin api", _api(admin_url, "/healthz")))
    found = list(await asyncio.gather(*checks))
    if not config.providers:
        found.append(Check(part="provider", ok=False, detail="none is configured"))
    return found


async def _store(name: str, url: str, look: Callable[[str], Awaitable[str]]) -> Check:
    if not url:
        detail = "no URL is configured and no engine is running here that has one of its own"
        return Check(part=name, ok=False, detail=detail)
    return await _check(name, look(url))


async def _check(part: str, look: Awaitable[str]) -> Check:
    try:
        async with asyncio.timeout(2 * _TIMEOUT_S):
            return Check(part=part, ok=True, detail=await look)
    except TimeoutError:
        detail = "no answer in time"
    except (_NotOk, EngineError) as e:
        detail = str(e).rstrip(".")
    return Check(part=part, ok=False, detail=" ".join(detail.split()))


async def _postgres(url: str, shards: int) -> str:
    await confirm_session(url, _TIMEOUT_S)
    with translated(in_full=True):
        connection = await connect(url, timeout_s=_TIMEOUT_S, command_timeout_s=_TIMEOUT_S)
        try:
            name = f"PostgreSQL {connection.get_settings().server_version}"
            if connection.get_server_version().major < POSTGRES_MIN:
                raise _NotOk(f"{name} is too old; {POSTGRES_MIN} or newer is needed")
            applied = await _applied(connection)
            kept = await _kept_shards(connection)
            warnings = (*await durability_warnings(connection), *await standby_warnings(connection))
            warnings += await _suspended(connection)
        finally:
            connection.terminate()
    if migrate.due(migrate.scripts_in(_SCRIPTS / "postgres" / "migrations"), applied, "PostgreSQL"):
        raise _NotOk(f"{name}; {_OUTDATED}")
    if kept is not None:
        agreed(kept, shards)
    return "; ".join((f"{name}, tables of this version", *warnings))


async def _suspended(connection: Any) -> tuple[str, ...]:
    """What is to be said of organisations that are suspended for unbooked usage; nothing without any."""
    if await connection.fetchval("SELECT to_regclass('unbooked') IS NULL"):
        return ()
    organisations, units = await unbooked_in_all(connection)
    return (suspended(organisations, units),) if organisations else ()


async def _kept_shards(connection: Any) -> int | None:
    """The number of shards that the tables are for; None: no engine was started with them yet."""
    if await connection.fetchval("SELECT to_regclass('layout') IS NULL"):
        return None
    kept: int | None = await connection.fetchval("SELECT shards FROM layout")
    return kept


async def _applied(connection: Any) -> dict[int, str]:
    if await connection.fetchval("SELECT to_regclass('smsengine_migrations') IS NULL"):
        return {}
    return dict(await connection.fetch("SELECT number, sha256 FROM smsengine_migrations"))


async def _redis(url: str, accepted_on: int = 1) -> str:
    link = RedisLink(url, timeout_s=_TIMEOUT_S, name="check")
    try:
        reply = await link.call("INFO")
        info, fitness = info_fields(reply), fitness_of(reply, accepted_on)
        name = "Valkey" if "valkey_version" in info else "Redis"
        shown = info.get("valkey_version") or info.get("redis_version", "")
        # In this field Valkey gives the Redis that it is compatible with.
        if _version(info.get("redis_version", "")) < REDIS_MIN:
            raise _NotOk(f"{name} {shown} is too old; Redis 7.0 or newer, or Valkey, is needed")
        if fault := fitness.fault or fitness.obstacle:
            raise _NotOk(f"{name} {shown}; {fault}")
        loaded = await link.call("FUNCTION", "LIST", "LIBRARYNAME", PATTERN)
        clock = await _clock(link)
    except ReplyError as e:
        raise _NotOk(f"refuses: {e}") from e
    finally:
        await link.close()
    if not {library.name for library in libraries()} <= {found[1].decode() for found in loaded}:
        raise _NotOk(f"{name} {shown}; functions are not of this version: run `smsengine migrate`")
    return "; ".join((f"{name} {shown}, functions of this version", *fitness.warnings, *clock))


async def _clock(link: RedisLink) -> list[str]:
    """What is to be said of this machine's clock; nothing when it shows what that of Redis shows."""
    asked_us = steady_us()
    seconds, microseconds = await link.call("TIME")
    bounds = measured(asked_us, steady_us(), int(seconds) * 1_000_000 + int(microseconds))
    ahead_us = wall_us() - steady_us() - bounds.middle_us
    if abs(ahead_us) - bounds.half_us <= NOTABLE_US:
        return []
    sentence = f"the clock of this machine is {difference(ahead_us)} that of Redis"
    if abs(ahead_us) > OFF_MAX_US:
        raise _NotOk(f"{sentence}: set it, because a node that is off by more than a minute does not work")
    return [sentence]


def _version(text: str) -> tuple[int, ...]:
    """The first two numbers: (24, 8) of "24.8.4.13"; () of a text that is no version."""
    numbers = text.split(".")[:2]
    return tuple(int(n) for n in numbers) if all(map(is_whole, numbers)) else ()


async def _clickhouse(url: str) -> str:
    # First, as `smsengine migrate` would refuse what is wrong here.
    await confirm_divisions(url, _TIMEOUT_S)
    found = await all_of(_clickhouse_division(one) for one in urls_of(url))
    # Mostly they say the same.
    return "; ".join(dict.fromkeys(found)) + (f" ({len(found)} divisions)" if len(found) > 1 else "")


async def _clickhouse_division(url: str) -> str:
    place = clickhouse_client.parse_url(url)
    client = await clickhouse_client.connect(place, database="default", timeout_s=_TIMEOUT_S)
    try:
        async with clickhouse_client.answering(place, _TIMEOUT_S):
            shown = str((await client.query("SELECT version()")).result_rows[0][0])
            if _version(shown) < CLICKHOUSE_MIN:
                raise _NotOk(f"ClickHouse {shown} is too old; 23.8 or newer is needed")
            exists = await client.query(
                "SELECT 1 FROM system.tables WHERE database = {d:String} AND name = 'smsengine_migrations'",
                parameters={"d": place.database},
            )
            applied: dict[int, str] = {}
            if exists.result_rows:
                table = f"`{place.database}`.smsengine_migrations"
                applied = dict((await client.query(f"SELECT number, sha256 FROM {table}")).result_rows)  # noqa: S608
    finally:
        await client.close()
    if migrate.due(migrate.scripts_in(_SCRIPTS / "clickhouse" / "migrations"), applied, "ClickHouse"):
        raise _NotOk(f"ClickHouse {shown}; {_OUTDATED}")
    await confirm_rights(url, _TIMEOUT_S)
    return f"ClickHouse {shown}, tables of this version"


async def _provider(settings: ProviderSettings) -> str:
    """Open and close a connection. Whether the provider would take a message cannot be known without one."""
    if needs_simulator(settings):
        raise _NotOk("simulated by `smsengine up`, which is not running")
    match settings:
        case CustomSettings():
            factory_of(settings)
            return "its module can be imported; whether it can be reached is not known from here"
        case SmppSettings():
            host, port = settings.host, settings.port
        case SimulatedSettings() | HttpSettings():
            parts = urlsplit(settings.url)
            if not parts.hostname:
                raise _NotOk("the URL must look like http://host:port")
            host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), _TIMEOUT_S)
    except (OSError, TimeoutError) as e:
        raise _NotOk(f"{host}:{port} cannot be reached") from e
    writer.close()
    return f"{host}:{port} can be reached"


async def _api(url: str, path: str) -> str:
    if not url:
        raise _NotOk("no engine is running here")
    return await asyncio.to_thread(_ask_api, url, path)


def _ask_api(url: str, path: str) -> str:
    client = Client(url, "", _TIMEOUT_S)
    try:
        client.call("GET", path)
    except Refusal as e:
        raise ConfigError(f"{url} is no smsengine: {e}") from e
    finally:
        client.close()
    return f"{url} is ready"
