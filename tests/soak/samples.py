"""What a soak looks at once a minute: each process, Redis, the disk, and what the customers saw."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import redis

_MIB = 1 << 20
_TICKS = os.sysconf("SC_CLK_TCK")
# Streams by the kind of their name; what the sum of their lengths is called.
_STREAMS = {
    "queued": ("sms:{%d}:express", "sms:{%d}:normal"),
    "usage": ("credit:{%d}:usage",),
    "activity": ("activity:{%d}",),
    "receipts": ("receipts:{%d}",),
}


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process of the engine, and what it has: MiB, descriptors, seconds of CPU."""

    pid: int
    # Such as `express 1` or `redis`; `postgres` is all processes of that server.
    name: str
    private_mib: float
    pss_mib: float
    descriptors: int
    cpu_s: float


def processes(supervisor: int) -> list[Process]:
    """The supervisor and all that descends from it. One that ends meanwhile is left out."""
    pids, found = [supervisor], []
    for pid in pids:
        try:
            pids += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
            found.append(_process(pid))
        except (OSError, ValueError, IndexError):
            continue
    server = [p for p in found if p.name == "postgres"]
    if not server:
        return found
    whole = Process(
        pid=server[0].pid,
        name="postgres",
        private_mib=sum(p.private_mib for p in server),
        pss_mib=sum(p.pss_mib for p in server),
        descriptors=sum(p.descriptors for p in server),
        cpu_s=sum(p.cpu_s for p in server),
    )
    return [p for p in found if p.name != "postgres"] + [whole]


def _process(pid: int) -> Process:
    proc = Path(f"/proc/{pid}")
    title = (proc / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    rollup = dict(
        line.split(":", 1) for line in (proc / "smaps_rollup").read_text().splitlines()[1:] if ":" in line
    )
    kib = {name: int(value.split()[0]) for name, value in rollup.items()}
    fields = (proc / "stat").read_text().rpartition(")")[2].split()
    return Process(
        pid=pid,
        name=_name(title),
        private_mib=(kib["Private_Clean"] + kib["Private_Dirty"]) / 1024,
        pss_mib=kib["Pss"] / 1024,
        descriptors=len(os.listdir(proc / "fd")),
        cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS,
    )


def _name(title: str) -> str:
    if title.startswith("smsengine: "):
        return title.removeprefix("smsengine: ").strip()
    for mark, name in (("clickhouse", "clickhouse"), ("postgres", "postgres"), ("valkey", "redis")):
        if mark in title:
            return name
    return title.split()[0].rpartition("/")[2] if title else "?"


def in_redis(client: redis.Redis, shards: int) -> dict[str, float]:
    """Memory in MiB, the number of keys, and the lengths of the streams of all shards by their kind."""
    memory = client.info("memory")
    found = {
        "redis used MiB": memory["used_memory"] / _MIB,
        "redis scripts MiB": (memory.get("used_memory_functions", 0) + memory.get("used_memory_lua", 0))
        / _MIB,
        "redis keys": float(client.dbsize()),
        "redis clients": float(client.info("clients")["connected_clients"]),
    }
    for kind, names in _STREAMS.items():
        pipe = client.pipeline(transaction=False)
        for name in names:
            for shard in range(shards):
                pipe.xlen(name % shard)
        found[f"stream {kind}"] = float(sum(pipe.execute()))
    return found


def by_kind_of_key(client: redis.Redis) -> dict[str, tuple[int, int]]:
    """How many keys of each kind there are, and the bytes of all of them."""
    kinds: dict[str, tuple[int, int]] = {}
    for key in client.scan_iter(count=1000):
        words = key.decode(errors="replace").split(":")
        kind = ":".join(w for w in words[:4] if not w.startswith("{"))[:40]
        if words[0] in ("idempotency", "holder") or "inbox" in words:
            kind = f"{words[0]} {'inbox' if 'inbox' in words else ''}".strip()
        number, octets = kinds.get(kind, (0, 0))
        kinds[kind] = number + 1, octets + int(client.memory_usage(key) or 0)
    return kinds


def on_disk(data_dir: Path) -> dict[str, float]:
    """MiB of each folder of the data directory, as the disk counts them."""
    found: dict[str, float] = {}
    for folder in data_dir.iterdir():
        total = 0
        for where, _, names in os.walk(folder):
            for name in names:
                try:
                    total += os.lstat(os.path.join(where, name)).st_blocks * 512
                except OSError:
                    continue
        if folder.is_dir():
            found[f"disk {folder.name} MiB"] = total / _MIB
    return found
