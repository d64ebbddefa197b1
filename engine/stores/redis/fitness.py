"""Whether a Redis can be trusted with messages and credit, read from its reply to INFO."""

from __future__ import annotations

import msgspec

from engine.errors import ConfigError, Unavailable
from engine.stores.redis.memory import memory_of

# A replica says each second how far it is. One that has not for so long does not follow, seconds.
_LAG_MAX_S = 3


class Fitness(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with one server, each in one sentence."""

    # Why the engine must not run on it until an operator changes something; "" when it may.
    fault: str = ""
    # Why it cannot run on it now, although it might soon; "" when it can.
    obstacle: str = ""
    # What may lose messages and does not keep the engine from running.
    warnings: tuple[str, ...] = ()

    def refuse(self) -> None:
        """Raises ConfigError for a fault, Unavailable for an obstacle."""
        if self.fault:
            raise ConfigError(self.fault)
        if self.obstacle:
            raise Unavailable(self.obstacle)


def info_fields(info: bytes) -> dict[str, str]:
    """The lines `name:value` of a reply to INFO."""
    pairs = (line.partition(":") for line in info.decode(errors="replace").splitlines())
    return {name: value.strip() for name, colon, value in pairs if colon}


def fitness_of(info: bytes, accepted_on: int = 1) -> Fitness:
    """Judge a server by its reply to INFO, of all sections; `accepted_on` as in `config.Redis`."""
    fields, memory = info_fields(info), memory_of(info)
    fault = memory.fault
    if fields.get("cluster_enabled") == "1":
        fault = (
            "Redis runs in cluster mode, in which the engine's steps are not atomic; name a single server."
        )
    obstacle = ""
    if fields.get("role", "master") != "master":
        # After a failover the address may lead to another server in a moment.
        master = f"{fields.get('master_host', '')}:{fields.get('master_port', '')}"
        obstacle = f"Redis is a replica, and what is written to it is lost; name its master ({master})."
    warnings = []
    if fields.get("aof_enabled") != "1":
        warnings.append("appendonly is off: a crash of Redis loses messages; set appendonly yes")
    if not memory.limit_bytes:
        warnings.append(
            "maxmemory is 0: what waits while ClickHouse is away may take all memory of the machine; "
            "set maxmemory"
        )
    if not memory.limit_bytes and memory.policy not in ("", "noeviction"):
        warnings.append(
            f"maxmemory-policy is {memory.policy}: Redis deletes messages once a maxmemory is set; "
            "set maxmemory-policy noeviction"
        )
    warnings += _replica_warnings(fields, accepted_on)
    return Fitness(fault=fault, obstacle=obstacle, warnings=tuple(warnings))


def _replica_warnings(fields: dict[str, str], accepted_on: int) -> list[str]:
    replicas = int(fields.get("connected_slaves") or 0)
    warnings = []
    # Redis gives this line only when min-replicas-to-write is set.
    if replicas and "min_slaves_good_slaves" not in fields:
        warnings.append(
            "min-replicas-to-write is 0: after a failover a master that was cut off goes on taking "
            "messages, which are lost; set min-replicas-to-write 1"
        )
    following = sum(_follows(fields.get(f"slave{n}", "")) for n in range(replicas))
    if following < accepted_on - 1:
        warnings.append(
            f"redis.accepted_on is {accepted_on} and {following} replicas follow: "
            "messages get 503 until there are more"
        )
    return warnings


def _follows(replica: str) -> bool:
    """Whether a replica has the data and has answered lately, by its line `slaveN` of INFO."""
    state = dict(pair.split("=", 1) for pair in replica.split(",") if "=" in pair)
    return state.get("state") == "online" and int(state.get("lag", 0)) <= _LAG_MAX_S
