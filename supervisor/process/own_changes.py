"""What operators change at the supervisor itself, for the record of changes: reloads, and levels of the log.

They come as signals, so nobody knows whose they are. The supervisor has no connection to a store: it keeps
the last ones in run/processes.json, and the role `node` records them (`engine.boot.own_changes`). Killed
before that, the change is in force and only the log tells of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import msgspec

from engine.changes import difference
from engine.config import Config
from engine.nodes.records import OwnChange
from supervisor.process import log_levels
from supervisor.process.reconcile import Observed

# So many are kept for the role `node`, which looks every second.
_KEPT = 50
# Texts of these may be secrets, or hold one: who reads that they differ looks into the file.
_SECRETIVE = ("providers", "postgres", "redis", "clickhouse")
_HIDDEN = "(not shown)"
# After the first start their tables count, and not the file.
_WITHOUT_EFFECT = ("routes", "prices")


def note_reload(observed: Observed, configs: Mapping[int, Config], sentence: str) -> None:
    """Note that a reload is over. `configs`: by generation. `sentence`: why it changed nothing, or ""."""
    if sentence:
        _note(observed, "reload", "refused", {}, {"why": sentence})
        return
    rolling = observed.rolling
    before = rolling.generation if rolling.fallback is None else rolling.fallback
    settings = [dict(_settings(configs[generation])) for generation in (before, rolling.generation)]
    was, now = difference(*settings)
    _note(observed, "reload", "done", _shown(was), _shown(now))


def note_levels(observed: Observed, signums: Iterable[int]) -> None:
    """Note from which level on the processes of some roles are to log, after these signals."""
    wanted: dict[str, Any] = {}
    for roles, level in (log_levels.wish(n) for n in signums if n in log_levels.SIGNUMS):
        wanted |= dict.fromkeys(roles, level)
    if wanted:
        was = {str(s.role): s.log_level for s in observed.slots.values() if s.role in wanted}
        _note(observed, "log-level", "done", *difference(was, {role: wanted[role] for role in was}))


def _note(
    observed: Observed,
    action: Literal["reload", "log-level"],
    outcome: Literal["done", "refused"],
    before: dict[str, Any],
    after: dict[str, Any],
) -> None:
    number = observed.changes[-1].number + 1 if observed.changes else 1
    at_us = time.time_ns() // 1000
    made = OwnChange(
        number=number, at_us=at_us, action=action, outcome=outcome, before=before, after=after
    )  # fmt: skip
    observed.changes = [*observed.changes[1 - _KEPT :], made]


def _settings(config: Config) -> Iterator[tuple[str, Any]]:
    """All settings by name, such as `queues.express.concurrency` and `providers.a.throughput`."""
    for section, value in msgspec.to_builtins(config).items():
        if section not in _WITHOUT_EFFECT:
            yield from _flat(section, value)


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    elif name == "providers":
        for provider in value:
            yield from _flat(f"{name}.{provider['name']}", provider)
    else:
        yield name, value


def _shown(settings: dict[str, Any]) -> dict[str, Any]:
    def shown(name: str, value: Any) -> Any:
        if name.partition(".")[0] in _SECRETIVE and not isinstance(value, bool | int | float | None):
            return _HIDDEN
        return value

    return {name: shown(name, value) for name, value in settings.items()}
