"""`smsengine org adjust`: give an organisation units, or take some, with a reason, over the admin API."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from engine.organisations import Adjustment
from supervisor.cli import options, show
from supervisor.cli.org_limits import Id


class _Wish(msgspec.Struct, frozen=True, kw_only=True):
    units: int
    reference: str
    reason: str


# More are no adjustment, as the API sees it.
_MOST = 10**15


@options.admin_options
def adjust(
    organisation: Id,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for people to read.")],
    reference: Annotated[
        str,
        typer.Option(metavar="TEXT", help="Your name for the adjustment; the same one never counts twice."),
    ],
    give: Annotated[
        int | None, typer.Option(metavar="UNITS", min=1, max=_MOST, help="Units to give.")
    ] = None,
    take: Annotated[
        int | None, typer.Option(metavar="UNITS", min=1, max=_MOST, help="Units to take.")
    ] = None,
    *,
    engine: options.EngineOptions,
) -> None:
    """Give units, or take some back, with a reason. Repeating it with the same reference changes nothing.

    What is held for messages under way cannot be taken.

    [bold]Example[/bold]

    [cyan]smsengine org adjust 7 --take 20 --reference claim-17 --reason "sent twice by mistake"[/cyan]
    """
    if (give is None) == (take is None):
        raise typer.BadParameter("Say either --give or --take, with a number of units.")
    path = f"/v1/admin/organisations/{organisation}/adjustments"
    done = engine.admin().post(
        path, _Wish(units=give or -(take or 0), reference=reference, reason=reason), Adjustment
    )
    if engine.print_json(done):
        return
    verb = "given" if done.units > 0 else "taken"
    available = show.number(done.balance.available)
    print(
        f"{show.counted(abs(done.units), 'unit')} {verb} as {done.reference!r}; {available} are available now"
    )
