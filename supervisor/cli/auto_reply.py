"""`smsengine auto-reply`: what is answered to STOP, START and HELP, over the admin API."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from rich.console import Console

from engine.inbound.auto_replies import AutoReply
from supervisor.cli import options, show
from supervisor.cli.client import decode, json_bytes
from supervisor.cli.org_limits import Id

app = typer.Typer(
    help="What an organisation answers to STOP, START and HELP: list, set, remove.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Action = Annotated[str, typer.Argument(metavar="ACTION", help="stop, start or help.")]
Number = Annotated[
    str,
    typer.Option(
        metavar="NUMBER", help="Of ours, that was written to; without it, all without a reply of their own."
    ),
]
Language = Annotated[
    str,
    typer.Option(
        metavar="CODE", help="Language of the word, such as de; without it, all without a reply of their own."
    ),
]


class _Replies(msgspec.Struct, frozen=True, kw_only=True):
    auto_replies: list[AutoReply]


class _NewReply(msgspec.Struct, frozen=True, kw_only=True):
    # As it was typed: the API says which actions there are.
    action: str
    number: str
    language: str
    text: str


class _OldReply(msgspec.Struct, frozen=True, kw_only=True):
    action: str
    number: str
    language: str


@app.command("list")
@options.admin_options
def list_replies(organisation: Id, *, engine: options.EngineOptions) -> None:
    """List what is answered in the name of an organisation.

    [bold]Example[/bold]

    [cyan]smsengine auto-reply list 7[/cyan]
    """
    found = engine.admin().get(_path(organisation), _Replies)
    if engine.print_json(found):
        return
    rows = (
        (r.action, r.number or "all others", r.language or "all others", r.text or "(nothing)")
        for r in found.auto_replies
    )
    Console(highlight=False, markup=False).print(
        show.listing(("to", "number", "language", "text"), rows, none="The organisation has set no replies.")
    )


@app.command("set")
@options.admin_options
def set_reply(
    organisation: Id,
    action: Action,
    text: Annotated[str, typer.Argument(metavar="TEXT", help='What is answered; "": nothing.')],
    number: Number = "",
    language: Language = "",
    *,
    engine: options.EngineOptions,
) -> None:
    """Say what is answered to STOP, START or HELP. It is a message of the organisation, and charged.

    [bold]Examples[/bold]

    [cyan]smsengine auto-reply set 7 stop "You get no more messages of ACME."[/cyan]
    [cyan]smsengine auto-reply set 7 help "ACME, Telefon 089 123456" --language de[/cyan]
    [cyan]smsengine auto-reply set 7 help "" --number 12345[/cyan]
    """
    body = json_bytes(_NewReply(action=action, number=number, language=language, text=text))
    made = decode(engine.admin().call("PUT", _path(organisation), body).body, AutoReply)
    if not engine.print_json(made):
        where = (
            f"{made.action}, {made.number or 'all other numbers'}, {made.language or 'all other languages'}"
        )
        print(f"{where}: {made.text or 'nothing is answered'}")


@app.command("remove")
@options.admin_options
def remove_reply(
    organisation: Id,
    action: Action,
    number: Number = "",
    language: Language = "",
    *,
    engine: options.EngineOptions,
) -> None:
    """Take a reply back.

    [bold]Example[/bold]

    [cyan]smsengine auto-reply remove 7 stop[/cyan]
    """
    body = json_bytes(_OldReply(action=action, number=number, language=language))
    engine.admin().call("POST", f"{_path(organisation)}/remove", body)
    if not engine.print_json({"removed": True}):
        print("The reply is removed.")


def _path(organisation: int) -> str:
    return f"/v1/admin/organisations/{organisation}/auto-replies"
