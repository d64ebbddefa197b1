"""Of what is wrong, `smsengine status`, `audit` and `provider problems` say what to do."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType

from engine.problem_records import ProblemKind
from supervisor.cli import problems, show
from supervisor.cli.answers import Audit, AuditCheck, MemoryState, Status


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


def test_an_audit_says_once_what_to_do_about_all_laws_that_one_thing_keeps_from_being_checked() -> None:
    do = "See to it that PostgreSQL answers, then run the audit again."
    checks = [AuditCheck(name=name, verdict="not_checked", advice=do) for name in ("held", "quotas")]
    checks.append(AuditCheck(name="queues", verdict="clean"))
    shown = " ".join(_printed(show.audit(Audit(verdict="not_checked", checks=checks))).split())
    assert f"held, quotas {do}" in shown
    assert shown.count(do) == 1


def test_every_kind_is_explained() -> None:
    assert set(problems._KINDS) == set(ProblemKind)
