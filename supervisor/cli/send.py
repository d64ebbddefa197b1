"""`smsengine send`: one message, or a file of them."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from engine.errors import ConfigError, Refusal
from engine.records import Accepted, MessageDraft, Queue
from supervisor.cli import options
from supervisor.cli.message_file import FileFormat, MessageFile, format_of
from supervisor.cli.send_file import FileRun, NotAllSent
from supervisor.cli.sending import BATCH_MAX
from supervisor.cli.text import counted


def _one(metavar: str | None, text: str, *names: str) -> Any:
    panel = "One message, or what the lines of a file leave out"
    return typer.Option(*names, metavar=metavar, help=text, rich_help_panel=panel)


def _many(
    metavar: str | None, text: str, *names: str, least: int | None = None, most: int | None = None
) -> Any:
    panel = "A file of messages"
    return typer.Option(*names, metavar=metavar, help=text, rich_help_panel=panel, min=least, max=most)


To = Annotated[str, _one("NUMBER", "Recipient in E.164, e.g. +989121234567.")]
Text = Annotated[str, _one("TEXT", "Text of the message.")]
From = Annotated[str, _one("SENDER", "Sender shown to the recipient.", "--from")]
QueueName = Annotated[Queue | None, _one(None, "Queue; normal unless the line says otherwise.")]
Validity = Annotated[
    int | None, _one("SECONDS", "How long it may wait; without it, as the queue's setting says.")
]
SendAt = Annotated[str, _one("TIME", "Not sent before this, e.g. 2030-01-31T09:00:00Z.")]
Reference = Annotated[str, _one("TEXT", "Your own name for the message.")]
Smart = Annotated[
    bool, _one(None, "Typographic quotes, dashes, spaces become those of GSM-7.", "--smart-encoding")
]
File = Annotated[Path | None, _many("FILE", "CSV or JSONL file.")]
Format = Annotated[
    FileFormat | None, _many(None, "Format of the file, when its name does not say.", "--format")
]
Encoding = Annotated[str, _many("NAME", "Encoding of the file, when it is neither UTF-8 nor UTF-16: cp1256.")]
Batch = Annotated[int, _many(None, "Messages a request.", least=1, most=BATCH_MAX)]
InFlight = Annotated[int, _many(None, "Requests under way at once.", least=1, most=64)]
RunKey = Annotated[str, _many("KEY", "Go on with a run that broke off; nothing is sent twice.")]
Refused = Annotated[Path | None, _many("FILE", "Write every refused line here, as JSONL.")]
AcceptedIds = Annotated[Path | None, _many("FILE", "Write line and id of every accepted message here.")]
Limit = Annotated[int, _many(None, "Refused lines to list at the end.", least=0)]

# With the number of the request behind it, it is an Idempotency-Key.
_RUN_KEY = re.compile(r"[!-~]{1,100}")


@options.customer_options
def send(
    to: To = "",
    text: Text = "",
    sender: From = "",
    queue: QueueName = None,
    validity: Validity = None,
    send_at: SendAt = "",
    reference: Reference = "",
    smart_encoding: Smart = False,
    file: File = None,
    file_format: Format = None,
    encoding: Encoding = "",
    batch: Batch = 500,
    in_flight: InFlight = 4,
    run_key: RunKey = "",
    refused: Refused = None,
    accepted: AcceptedIds = None,
    limit: Limit = 10,
    *,
    engine: options.EngineOptions,
) -> None:
    """Send one message, or a CSV or JSONL file of them.

    A file names the fields to, text and, where wanted, from, queue, validity,
    send_at and reference: in the first line of a CSV, or as keys of each JSON
    object. Each line is accepted or refused on its own; exit code 1 if any was
    refused.

    [bold]Examples[/bold]

    [cyan]smsengine send --to +989121234567 --text "Your code is 1234"[/cyan]
    [cyan]smsengine send --file messages.csv --refused refused.jsonl[/cyan]
    """
    fields = {
        "to": to, "text": text, "from": sender, "queue": queue or "", "validity": validity or "",
        "send_at": send_at, "reference": reference, "smart_encoding": smart_encoding or "",
    }  # fmt: skip
    given = {name: value for name, value in fields.items() if value != ""}
    if validity is not None and validity < 1:
        raise ConfigError("--validity must be at least 1 second.")
    if file is None:
        _send_one(given, engine)
        return
    if run_key and not _RUN_KEY.fullmatch(run_key):
        raise ConfigError("--run-key must be 1 to 100 printable ASCII characters, without spaces.")
    source = MessageFile(path=file, format=format_of(file, file_format), encoding=encoding, defaults=given)
    key = run_key or secrets.token_hex(8)
    run = FileRun(source=source, limit=limit, key=key, refused=refused, accepted=accepted)
    run.perform(engine.whereabouts, batch, in_flight, engine.as_json)


def _send_one(given: dict[str, str | int], engine: options.EngineOptions) -> None:
    for name in ("to", "text"):
        if name not in given:
            raise ConfigError(f"--{name} is missing (or --file, to send a file of messages).")
    client = engine.whereabouts.customer()
    try:
        draft = msgspec.convert(given, MessageDraft)
        answer = client.post("/v1/messages", draft, Accepted, secrets.token_hex(16))
    except Refusal as e:
        if e.status in (401, 403):
            raise
        raise NotAllSent(f"The message was refused: {e.detail}") from e
    finally:
        client.close()
    if engine.print_json(answer):
        return
    cost = f"{counted(answer.segments, 'segment')} {answer.encoding}, {counted(answer.units, 'unit')}"
    print(f"{answer.status} {answer.id} ({answer.queue}, {cost})")
