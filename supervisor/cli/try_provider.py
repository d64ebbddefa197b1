"""`smsengine provider test`, as the command line has it."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.errors import ConfigError
from supervisor.cli import options

_WAIT_S_MAX = 3600.0

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the provider in the configuration.")]
To = Annotated[str, typer.Option(metavar="NUMBER", help="A telephone that you can look at: +989121234567.")]
Text = Annotated[str, typer.Option(metavar="TEXT", help="Text of the message.")]
Sender = Annotated[
    str, typer.Option(metavar="SENDER", help="Sender that the recipient sees; many providers need one.")
]
Timeout = Annotated[
    float,
    typer.Option(metavar="SECONDS", help="How long to wait for the receipt: up to 3600; 0: not at all."),
]


@options.engine_options("data_dir", "as_json")
def trial(
    name: Name,
    to: To,
    text: Text = "Test of smsengine",
    sender: Sender = "",
    timeout: Timeout = 60.0,
    config: options.ConfigFile = None,
    *,
    engine: options.EngineOptions,
) -> None:
    """Send one message through one provider, and show each step on the wire.

    Try a new provider with it before any route names the provider. The message is
    real: it goes to the telephone that --to names, and the provider may charge for
    it. It goes through no queue: no organisation pays for it, no history has it, and
    `throughput` does not count it. The engine need not run. Without --config, the
    provider is that of the engine that runs in the data directory.

    It shows the connection, what was sent (SMPP: the fields of each PDU, and all of
    it in hex; HTTP: the request), what the provider answered, and what the engine
    makes of it. Then it waits for the receipt, and shows whether its id is that of
    the message by the setting `receipt_ids`. Passwords and keys are masked.

    SMPP: the provider must allow one more session. The receipt comes on that of the
    test, or on one of the engine. Receipts of other messages that come to the test
    are refused for now, and the provider sends them again. HTTP: the provider sends
    the receipt to the engine, which must run. The engine does not know the message,
    and counts the receipt as `receipt_unmatched` after a quarter of an hour.

    Exit code 0: accepted, with its receipt if one was waited for. 1: refused, not
    known, or no receipt. 2: the test cannot be made. With --json one line a step.

    [bold]Examples[/bold]

    [cyan]smsengine provider test provider-a --to +989121234567[/cyan]
    [cyan]smsengine provider test provider-a --to +989121234567 --sender Acme --config new.toml[/cyan]
    """
    if not 0 <= timeout <= _WAIT_S_MAX:
        raise ConfigError(f"--timeout must be from 0 to {_WAIT_S_MAX:g} seconds.")
    # Imported here, since they load the providers.
    from supervisor.cli.checks import configuration
    from supervisor.cli.trial.run import Trial, perform

    found, running = configuration(config, engine.data_dir)
    if config is None and running is None:
        raise ConfigError(
            "--config must name a file with the provider: no engine runs in the data directory (--data-dir)."
        )
    wanted = Trial(provider=name, to=to, text=text, sender=sender, timeout_s=timeout, as_json=engine.as_json)
    raise typer.Exit(perform(wanted, found, running is not None))
