"""Of what is wrong, `smsengine status`, `audit` and `provider problems` say what to do."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType

from engine.problem_records import ProblemKind
from supervisor.cli import problems, show
from supervisor.cli.answers import ActivityState, Audit, AuditCheck, MemoryState, Status


def printed(seen: Status) -> str:
    return _printed(show.status(seen, 0))


def _printed(shown: RenderableType) -> str:
    out = io.StringIO()
    Console(file=out, width=80, highlight=False).print(shown)
    return out.getvalue()


def test_the_status_names_the_command_only_when_there_were_problems() -> None:
    line = "not understood in the last hour: 1,200 (see smsengine provider problems)\n"
    assert line in printed(Status(problems_last_hour=1200))
    assert "not understood" not in printed(Status())


def test_the_status_says_where_to_look_when_a_store_is_away_and_what_to_do_when_redis_is_full() -> None:
    away = printed(Status(missing={"ledger": "PostgreSQL gives no answer within 2 s."}))
    assert "smsengine check says which store is away" in away
    full = " ".join(printed(Status(memory=MemoryState(used_mb=13, limit_mb=12, full=True))).split())
    assert "until some is free: raise maxmemory" in full
    assert "smsengine check" not in printed(Status())


def test_the_status_says_since_when_clickhouse_takes_nothing_and_how_long_there_is_room() -> None:
    def said(waited_ms: int, memory: MemoryState) -> str:
        seen = Status(activity=ActivityState(oldest_ms=waited_ms), memory=memory)
        return " ".join(printed(seen).split())

    bound = MemoryState(used_mb=300, limit_mb=4096, waiting_mb=280, lasts_ms=37_000_000)
    assert "in ClickHouse yet: it is away or slow" not in said(59_999, bound)
    away = said(2_820_000, bound)
    assert "events of 47 min ago are not in ClickHouse yet" in away
    assert "takes about 280 MB of Redis's memory, which is full in 10 h if this goes on" in away
    unbound = MemoryState(used_mb=300, waiting_mb=280)
    assert "which has no bound (set maxmemory)" in said(2_820_000, unbound)
    full = MemoryState(used_mb=3700, limit_mb=4096, full=True, waiting_mb=280, lasts_ms=1)
    assert "if this goes on" not in said(2_820_000, full)
    # A user of Redis who may not ask how large a key is.
    assert "waits for it takes" not in said(2_820_000, MemoryState(used_mb=300, limit_mb=4096))


def test_an_audit_says_once_what_to_do_about_all_laws_that_one_thing_keeps_from_being_checked() -> None:
    do = "See to it that PostgreSQL answers, then run the audit again."
    checks = [AuditCheck(name=name, verdict="not_checked", advice=do) for name in ("held", "quotas")]
    checks.append(AuditCheck(name="queues", verdict="clean"))
    shown = " ".join(_printed(show.audit(Audit(verdict="not_checked", checks=checks))).split())
    assert f"held, quotas {do}" in shown
    assert shown.count(do) == 1


def test_every_kind_is_explained() -> None:
    assert set(problems._KINDS) == set(ProblemKind)
