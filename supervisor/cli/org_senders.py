"""`smsengine org senders`: what an organisation may use as a sender, and where it may send."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from engine.errors import ConfigError
from engine.intake.records import SenderRules
from supervisor.cli import options
from supervisor.cli.client import decode, json_bytes
from supervisor.cli.org_limits import Id

# How a list is given to be changed: nothing at all, and everything.
_ANY, _NONE = "any", "none"
_LIST = typer.Option(
    metavar="SENDER", help="A sender that it may use; may be given several times. any: every sender."
)
_PREFIXES = typer.Option(
    metavar="PREFIX", help="Where it may send, such as +49; may be given several times. any: everywhere."
)


@options.admin_options
def senders(
    organisation: Id,
    allow: Annotated[list[str], _LIST] = [],  # noqa: B006 - typer makes a new one for each call
    default: Annotated[
        str,
        typer.Option(metavar="SENDER", help="Sender of messages that name none; none: the provider's own."),
    ] = "",
    destination: Annotated[list[str], _PREFIXES] = [],  # noqa: B006 - the same
    *,
    engine: options.EngineOptions,
) -> None:
    """Show which senders an organisation may use and where it may send, or set it.

    A sender is a name of up to 11 characters, a short code or a phone number. What
    is not named stays; a list replaces the one before. A change is in force within
    a second.

    [bold]Examples[/bold]

    [cyan]smsengine org senders 7[/cyan]
    [cyan]smsengine org senders 7 --allow ACME --allow 12345 --default ACME[/cyan]
    [cyan]smsengine org senders 7 --destination +49 --destination +43[/cyan]
    [cyan]smsengine org senders 7 --allow any --destination any --default none[/cyan]
    """
    change: dict[str, Any] = {}
    if allow:
        change["senders"] = _wanted("--allow", allow)
    if destination:
        change["destinations"] = _wanted("--destination", destination)
    if default:
        change["default"] = None if default == _NONE else default
    path, client = f"/v1/admin/organisations/{organisation}/senders", engine.admin()
    if change:
        found = decode(client.call("PATCH", path, json_bytes(change)).body, SenderRules)
    else:
        found = client.get(path, SenderRules)
    if engine.print_json(found):
        return
    print(f"senders       {_shown(found.senders)}")
    print(f"default       {found.default or 'that of the provider'}")
    print(f"destinations  {_shown(found.destinations)}")


def _wanted(option: str, given: list[str]) -> list[str] | None:
    if _ANY not in given:
        return given
    if given != [_ANY]:
        raise ConfigError(f"{option} must be any alone, or what is allowed.")
    return None


def _shown(entries: tuple[str, ...] | None) -> str:
    return "any" if entries is None else ", ".join(entries) or "none"
