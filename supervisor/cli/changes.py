"""`smsengine changes`: who changed what, over the admin API."""

from __future__ import annotations

from datetime import UTC
from typing import Annotated
from urllib.parse import urlencode

import msgspec
import typer

from engine.changes import Change
from supervisor.cli import options
from supervisor.cli.times import time_of

_PAGE = 500


class _Page(msgspec.Struct, frozen=True, kw_only=True):
    changes: list[Change]
    next: int | None = None


@options.admin_options
def changes(
    key: Annotated[
        str, typer.Option(metavar="NAME", help="Only those made with this key; configuration: its own key.")
    ] = "",
    organisation: Annotated[
        int | None, typer.Option(metavar="ID", min=1, help="Only changes of this organisation.")
    ] = None,
    path: Annotated[
        str, typer.Option(metavar="PATH", help="Only calls whose path begins so: /v1/admin/prices.")
    ] = "",
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only from then on: a time, or 30d, 12h, 5m ago.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Only before then.")] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="COUNT", help="How many at most.")] = 50,
    *,
    engine: options.EngineOptions,
) -> None:
    """List what operators changed, the newest first: when, with which key, from where, from what to what.

    With --json one object a line.

    [bold]Examples[/bold]

    [cyan]smsengine changes[/cyan]
    [cyan]smsengine changes --organisation 7 --since 30d[/cyan]
    [cyan]smsengine changes --key alice --path /v1/admin/prices[/cyan]
    """
    wanted: dict[str, object] = {"key": key, "organisation": organisation or "", "path": path}
    for name, text in (("since", since), ("until", until)):
        time = time_of(text, f"--{name}", "ago")
        wanted[name] = "" if time is None else time.astimezone(UTC).isoformat()
    client, cursor, left, found = engine.admin(), "", limit, False
    while left > 0:
        query = urlencode({**wanted, "limit": min(left, _PAGE), "cursor": cursor})
        page = client.get(f"/v1/admin/changes?{query}", _Page)
        for change in page.changes:
            found = True
            if not engine.print_json(change):
                print(_line(change))
        left -= len(page.changes)
        if page.next is None:
            break
        cursor = str(page.next)
    if not found and not engine.as_json:
        print("There are no such changes.")


def _line(change: Change) -> str:
    call = f"{change.action.partition(' ')[0]} {change.path}"
    head = f"{change.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}  {change.key} from {change.address}  {call}"
    if change.outcome != "done":
        head += f"  [{change.outcome}]"
    before, after = (bytes(value).decode() for value in (change.before, change.after))
    if before == after == "null":
        return f"{head}\n    nothing had to be changed" if change.outcome == "done" else head
    return f"{head}\n    {before} -> {after}"
