"""`smsengine status` and `smsengine provider problems` show what providers sent that was not understood."""

from __future__ import annotations

import io

from rich.console import Console

from engine.problem_records import ProblemKind
from supervisor.cli import problems, show
from supervisor.cli.answers import Status


def printed(seen: Status) -> str:
    out = io.StringIO()
    Console(file=out, width=80, highlight=False).print(show.status(seen, 0))
    return out.getvalue()


def test_the_status_names_the_command_only_when_there_were_problems() -> None:
    line = "not understood in the last hour: 1,200 (see smsengine provider problems)\n"
    assert line in printed(Status(problems_last_hour=1200))
    assert "not understood" not in printed(Status())


def test_every_kind_is_explained() -> None:
    assert set(problems._KINDS) == set(ProblemKind)
