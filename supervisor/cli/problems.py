"""`smsengine provider problems`: what providers sent that was not understood."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import quote

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from supervisor.cli import options, show

# What a kind means, and where to look; the kinds are those of `engine.problem_records.ProblemKind`.
_KINDS = {
    "receipt_unread": "looks like a receipt and cannot be read, or names no message",
    "receipt_state": "a receipt with a state that is not known: see `states`",
    "receipt_unmarked": "a text in the form of a receipt, not marked as one",
    "receipt_unmatched": "a receipt for which no message was found: see `receipt_ids`",
    "answer_unread": "an answer that does not say whether the message was taken, or (SMPP) gives it no id",
    "refusal_foreign": "a refusal that is not in the provider's words, such as a proxy's page",
    "protocol_broken": "breaks the protocol",
}


class _Sample(msgspec.Struct, frozen=True, kw_only=True):
    at_us: int
    sample: str


class _Problem(msgspec.Struct, frozen=True, kw_only=True):
    provider: str
    kind: str
    last_hour: int
    last_day: int
    total: int
    last_at_us: int
    hours: list[int] = []
    samples: list[_Sample] = []


class _Problems(msgspec.Struct, frozen=True, kw_only=True):
    problems: list[_Problem]


@options.admin_options
def problems(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="Show one provider, with the last samples of each kind.")
    ] = "",
    *,
    engine: options.EngineOptions,
) -> None:
    """Show what providers sent that was not understood: how often, when last, and how it looked.

    When a provider changes what it sends, you see it here first. Texts, numbers and secrets are
    masked in the samples.

    [bold]Examples[/bold]

    [cyan]smsengine provider problems[/cyan]
    [cyan]smsengine provider problems provider-a[/cyan]
    """
    path = f"/v1/admin/providers/{quote(name, safe='')}/problems" if name else "/v1/admin/problems"
    found = engine.admin().get(path, _Problems)
    if engine.print_json(found):
        return
    console = Console(highlight=False, markup=False)
    if not found.problems:
        console.print(f"Everything that {name or 'the providers'} sent was understood.")
        return
    columns = ("provider", "kind", "last hour", "24 hours", "in all", "last")
    now_us = time.time_ns() // 1000
    rows = (
        (
            one.provider, one.kind, show.number(one.last_hour), show.number(one.last_day),
            show.number(one.total), f"{show.span(max(0, now_us - one.last_at_us) // 1000)} ago",
        )
        for one in found.problems
    )  # fmt: skip
    console.print(show.table(columns, rows, frozenset({2, 3, 4, 5})))
    if name:
        for one in found.problems:
            console.print(Text(f"\n{one.kind}: {_KINDS.get(one.kind, 'see docs/providers.md')}"))
            for sample in one.samples:
                console.print(Text(f"  {_time(sample.at_us)}  {sample.sample}"), soft_wrap=True)
    else:
        console.print("\nsmsengine provider problems NAME shows what the last of them looked like.")


def _time(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
