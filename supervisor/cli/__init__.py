"""The command `smsengine`: it reads the command line and calls the module that does the work.

Exit codes: 0 it is done, or it is as it should be; 1 the engine's answer is no (a check failed, a
unit is missing, a message was refused, a part failed while running); 2 the command cannot be
carried out as it stands (a wrong option, file, key, setting or port, or no engine there); 3 the
audit found nothing wrong, but could not check everything; 130 it was interrupted (Ctrl-C).
Each error is one sentence on stderr.

Commands that only talk HTTP start fast, since this module imports no role, no store and no
provider. A command that needs those imports them when it is called.
"""

from __future__ import annotations

import sys
import time
from functools import cache, partial
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from engine import __version__
from engine.errors import ConfigError, EngineError, Refusal, Unavailable
from engine.logs.journal import last_sentence
from supervisor.cli import (
    admin_key,
    auto_reply,
    books,
    changes,
    dead,
    destination,
    erase,
    export,
    inbound,
    message,
    node,
    opt_out,
    options,
    org,
    plan,
    price,
    provider,
    queue,
    report,
    route,
    send,
    show,
    webhook,
)  # fmt: skip
from supervisor.cli.answers import Audit, Status
from supervisor.cli.client import Client, decode
from supervisor.cli.command_line import advice, names, strict
from supervisor.cli.send_file import Interrupted
from supervisor.cli.text import command_sentence, readable, usage_sentence
from supervisor.cli.waiting import waiting
from supervisor.output import is_unread, print_exactly, surviving_output

app = typer.Typer(
    name="smsengine",
    help="An SMS sending engine: prepaid credit, two isolated queues, every event recorded.",
    epilog="Start with [cyan]smsengine up --demo[/cyan]; each command explains itself with --help.",
    add_completion=False,
    no_args_is_help=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(org.app, name="org")
app.add_typer(books.app, name="books")
app.add_typer(destination.app, name="destination")
app.add_typer(inbound.app, name="inbound")
app.add_typer(inbound.routes, name="inbound-route")
app.add_typer(auto_reply.app, name="auto-reply")
app.add_typer(opt_out.app, name="opt-out")
app.add_typer(price.app, name="price")
app.add_typer(route.app, name="route")
app.add_typer(provider.app, name="provider")
app.add_typer(queue.app, name="queue")
app.add_typer(node.app, name="node")
app.add_typer(dead.app, name="dead")
app.add_typer(message.app, name="message")
app.add_typer(admin_key.app, name="admin-key")
app.add_typer(webhook.app, name="webhook")
for _command in (send.send, plan.plan, changes.changes, report.report, export.export, erase.erase):
    app.command()(_command)

# The tree of all commands; to make it takes a tenth of a second.
command = cache(lambda: strict(typer.main.get_command(app)))
# How much longer than its deadline the answer of an audit may take to come, seconds.
_ANSWER_S = 15.0
# Longest wait for one look of --watch, seconds; parts of it that are late are named in the answer.
_WATCH_S = 5.0
# As shells say of a program that SIGINT has ended.
_INTERRUPTED = 130
_AUDIT_CODES = {"clean": 0, "not_clean": 1, "not_checked": 3}


def main() -> None:
    """Run the command line of this process and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Carry out a command line, without the program's name. Returns its exit code; errors are on stderr."""
    try:
        with surviving_output():
            # Without standalone mode a command's own Exit comes back as its code, and Ctrl-C as 130.
            code: int = command()(arguments, prog_name="smsengine", standalone_mode=False) or 0
    except typer.TyperException as e:
        # A group of commands without one of them says nothing: its help is printed by then.
        if words := usage_sentence(e.format_message(), arguments, partial(advice, command(), arguments)):
            _complain(words)
        return 2
    except EngineError as e:
        is_refusal = isinstance(e, Refusal)
        _complain(command_sentence(str(e), arguments, names(command(), arguments)) if is_refusal else str(e))
        if isinstance(e, Interrupted):
            return _INTERRUPTED
        return 2 if isinstance(e, ConfigError | Refusal | Unavailable) else 1
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except OSError as e:
        _complain(f"{e.filename or 'the operating system'}: {e.strerror or e}.")
        return 2
    if code == _INTERRUPTED:
        _complain("interrupted.")
    return code


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Without a command, print the version or the help."""
    if version:
        print(f"smsengine {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
@options.engine_options("data_dir")
def up(
    config: options.ConfigFile = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="With a demo organisation that has credit, and a simulator.")
    ] = False,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Address of the API.  \\[default: 127.0.0.1:8080]")
    ] = "",
    admin_listen: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="Address of the admin calls, or unix:/PATH.  \\[default: 127.0.0.1 and the port after]",
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON when ready.")] = False,
    *,
    engine: options.EngineOptions,
) -> None:
    """Start the engine and whatever it needs; Ctrl-C stops it again.

    For each of Redis, PostgreSQL and ClickHouse that the configuration gives no
    URL of, it starts a server of its own, whose data is in the data directory.

    On SIGHUP (smsengine reload) the configuration is read again, and when it is right the
    workers and the API are replaced by ones that have it, one process after another:
    providers are added and changed without an interruption.

    [bold]Examples[/bold]

    [cyan]smsengine up --demo[/cyan]
    [cyan]smsengine up --config /etc/smsengine.toml --data-dir /var/lib/smsengine[/cyan]
    """
    # Imported here, since it loads every role: that takes several times as long as `send` needs to start.
    from supervisor.up import Wish, bring_up

    raise typer.Exit(
        bring_up(
            Wish(
                config_file=config,
                demo=demo,
                data_dir=engine.data_dir,
                listen=listen,
                admin_listen=admin_listen,
                as_json=as_json,
            )
        )
    )


@app.command()
@options.engine_options("data_dir", "as_json")
def reload(
    timeout: Annotated[
        int, typer.Option(min=1, max=3600, metavar="SECONDS", help="How long to wait until it is in force.")
    ] = 600,
    *,
    engine: options.EngineOptions,
) -> None:
    """Have the running engine read its configuration again, and wait until it is in force.

    Workers and API are replaced by ones that have it, one process after another. No request fails
    meanwhile. When the file is wrong nothing changes, and the exit code is 1: see `smsengine check`.

    [bold]Example[/bold]

    [cyan]smsengine reload --data-dir /var/lib/smsengine[/cyan]
    """
    # Imported here, since it loads the whole configuration.
    from supervisor.cli.reloading import reload_engine

    reload_engine(engine.whereabouts.data_dir, timeout)
    if not engine.print_json({"reloaded": True}):
        print("The configuration is in force.")


@app.command("log-level")
@options.engine_options("data_dir", "as_json")
def log_level(
    level: Annotated[str, typer.Argument(metavar="LEVEL", help="debug, info, warning or error.")],
    role: Annotated[str, typer.Option(metavar="ROLE", help="Only processes of this role; else all.")] = "",
    *,
    engine: options.EngineOptions,
) -> None:
    """Set the log level of the running processes of this node, and print the one before.

    A process that starts later, after a restart or a reload, has the level of the configuration.

    [bold]Example[/bold]

    [cyan]smsengine log-level debug --role express[/cyan]
    """
    # Imported here, since it loads the whole configuration.
    from supervisor.cli.log_level import change_level

    changed = change_level(engine.whereabouts.data_dir, level, role)
    if not engine.print_json({"processes": changed}):
        for process in changed:
            print(f"{process.role} {process.index}  {process.level}, was {process.was or 'not known'}")


@app.command()
@options.engine_options("data_dir", "url", "as_json")
def check(config: options.ConfigFile = None, *, engine: options.EngineOptions) -> None:
    """Say of each part whether it can be reached, is new enough and is set up.

    Looks at the parts of the engine that runs in the data directory, or at those
    that a configuration names. Exit code 1 if any is not as it should be.

    [bold]Examples[/bold]

    [cyan]smsengine check[/cyan]
    [cyan]smsengine check --config /etc/smsengine.toml[/cyan]
    """
    # Imported here, since it loads the clients of all stores.
    from supervisor.cli.checks import check_all

    found = check_all(config, engine.data_dir, engine.url)
    if not engine.print_json({"ok": all(c.ok for c in found), "checks": found}):
        rows = ((c.part, "ok" if c.ok else "NOT OK", c.detail) for c in found)
        Console(highlight=False, markup=False).print(show.table(("part", "", "detail"), rows))
    raise typer.Exit(0 if all(c.ok for c in found) else 1)


@app.command()
@options.engine_options("data_dir", "as_json")
def migrate(config: options.ConfigFile = None, *, engine: options.EngineOptions) -> None:
    """Bring the tables and functions in the stores to this version.

    `smsengine up` does so by itself; this is for doing it at a time of your own.
    Doing it again changes nothing.

    [bold]Example[/bold]

    [cyan]smsengine migrate --config /etc/smsengine.toml[/cyan]
    """
    # Imported here, since it loads the clients of all stores.
    from supervisor.prepare import migrate_only

    migrate_only(config, engine.data_dir)
    if not engine.print_json({"migrated": True}):
        print("The stores are up to date.")


@app.command()
@options.admin_options
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Show it live, until q or Ctrl-C.")] = False,
    interval: Annotated[
        float, typer.Option(min=0.1, max=3600, metavar="SECONDS", help="Pause between two looks.")
    ] = 1.0,
    *,
    engine: options.EngineOptions,
) -> None:
    """Show all nodes with their processes, the queues, and how far behind the books are.

    With [bold]--watch[/bold] on a terminal: rates, times and histories of all nodes together, drawn
    again and again. With --json one line a look. What a store does not answer is named. When the
    API does not answer at all, the processes are shown, and the exit code is 2.

    [bold]Examples[/bold]

    [cyan]smsengine status[/cyan]
    [cyan]smsengine status --watch[/cyan]
    """
    client = engine.admin(_WATCH_S) if watch else engine.admin()
    try:
        if watch and not engine.as_json and sys.stdout.isatty():
            # Imported here, since only a terminal needs it.
            from supervisor.cli.live.screen import watch as watch_on

            watch_on(lambda: decode(_status(engine, client)[0], Status), interval)
            return
        while True:
            body, late = _status(engine, client)
            if engine.as_json:
                print_exactly(body.decode())
            else:
                shown = show.status(decode(body, Status), time.time_ns() // 1000)
                Console(highlight=False, markup=False).print(shown)
            if late is not None and not watch:
                raise late
            if not watch or is_unread():
                return
            time.sleep(interval)
    except KeyboardInterrupt:
        # The way to end --watch, not a failure.
        return


@app.command()
@options.admin_options
def audit(
    *,
    engine: options.EngineOptions,
    full: Annotated[
        bool, typer.Option("--full", help="Sum everything anew, without regard to earlier audits.")
    ] = False,
    timeout: Annotated[
        int, typer.Option(min=1, max=600, metavar="SECONDS", help="How long it may take.")
    ] = 120,
) -> None:
    """Recompute from all stores that no unit of credit is missing or counted twice.

    What was found clean on an earlier day is not summed again; --full does so. Run it once a
    day, and an audit costs the same however old the engine is.

    Exit code 0: clean. 1: not clean, a unit is missing or counted twice. 3: not checked, some
    law could not be looked at, for a store is away or far behind.

    [bold]Example[/bold]

    [cyan]smsengine audit[/cyan]
    """
    path = f"/v1/admin/audit?timeout={timeout}&full={str(full).lower()}"
    with waiting(f"Auditing, for {timeout} s at most", shown=not engine.as_json):
        body = engine.admin(timeout + _ANSWER_S).call("GET", path).body
    found = decode(body, Audit)
    if engine.as_json:
        print_exactly(body.decode())
    else:
        Console(highlight=False, markup=False).print(show.audit(found))
    raise typer.Exit(_AUDIT_CODES.get(found.verdict, 3))


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def simulator(context: typer.Context) -> None:
    """Run a simulated SMS provider: latencies, errors and outages as you wish.

    All options are its own: [cyan]smsengine simulator --help[/cyan].
    """
    from supervisor import simulator as program  # here, since it is a program of its own

    program.run(program.options(context.args))


def _status(engine: options.EngineOptions, client: Client) -> tuple[bytes, Unavailable | None]:
    """The status as JSON, and why it is no more than what is known without the API; None: it is all.

    Raises Refusal, Unavailable.
    """
    try:
        return client.call("GET", "/v1/admin/status").body, None
    except Unavailable as e:
        own = engine.whereabouts.own_status(e.detail)
        if own is None:
            raise
        return msgspec.json.encode(own), e


def _complain(sentence: str) -> None:
    sys.stderr.write(last_sentence(readable(sentence)))
