"""What cannot be carried out is one plain sentence and exit code 2, never a stack trace."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor import cli
from tests import warm

FILES = {
    "good.csv": b"to,text\n+989121234567,Hello\n",
    "headless.csv": b"+989121234567,Hello\n",
    "messages.txt": b"to,text\n",
    "no.toml": b"[http\n",
    "unknown.toml": b"[http]\nport = 1\n",
    "provider.toml": b"[[providers]]\nname = 'one'\nurl = 'http://127.0.0.1:9'\n",
    "no_provider.toml": b"shards = 4\n",
    "stores.toml": (
        b"[postgres]\nurl = 'postgresql://127.0.0.1:9/x'\n[redis]\nurl = 'redis://127.0.0.1:9'\n"
        b"[clickhouse]\nurl = 'http://127.0.0.1:9'\n"
    ),
}


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory with the files above and no engine."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SMSENGINE_")]:
        monkeypatch.delenv(name)
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)


ENGINE = ["--url", "http://127.0.0.1:9", "--api-key", "k"]
ADMIN = ["--url", "http://127.0.0.1:9", "--admin-key", "k"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["sned"], "No such command 'sned'. Did you mean 'send'?"),
        (["send", "--tto", "x"], "No such option: --tto"),
        (["org", "limits", "1", "2", *ADMIN], "Too many arguments: 2."),
        (["report", "2", *ADMIN], "Too many arguments: 2; did you mean --organisation 2?"),
        (["report", "normal", *ADMIN], "Too many arguments: normal; did you mean --queue normal?"),
        (["report", "status,day", *ADMIN], "Too many arguments: status,day; did you mean --by status,day?"),
        (["changes", "7", *ADMIN], "Too many arguments: 7; did you mean --organisation 7?"),
        # It has been given.
        (
            ["report", "--organisation", "3", "2", *ADMIN],
            "Too many arguments: 2; `smsengine report` takes options alone, and `smsengine report --help`",
        ),
        (["status", "now", *ADMIN], "Too many arguments: now; `smsengine status` takes options alone"),
        (
            ["org", "limits", "1", "--weight", "", *ADMIN],
            "--weight must be a number from 0.1 to 100, or none.",
        ),
        (
            ["org", "limits", "1", "--backlog-max", "", *ADMIN],
            "--backlog-max must be a whole number of messages from 1,000 to 1,000,000,000, or none.",
        ),
        (
            ["org", "limits", "1", "--rate-max", "", *ADMIN],
            "--rate-max must be a rate from 0.1/s to 1,000,000/s, such as 200/s or 6000/min, or none.",
        ),
        (
            ["org", "key", "1", "--revoke", "1", "--rotate", "2", *ADMIN],
            "Say only one of --rotate, --change and --revoke.",
        ),
        # As a script has it whose variable is empty: the key would have no end.
        (
            ["org", "key", "1", "--expires", "", *ADMIN],
            "--expires must be a time with its time zone, such as",
        ),
        (
            ["admin-key", "create", "a", "--scope", "read", "--expires", "", *ADMIN],
            "--expires must be a time with its time zone, such as",
        ),
        (
            ["org", "key", "1", "--overlap", "7d", *ADMIN],
            "--overlap must be left out without --rotate.",
        ),
        (
            ["org", "key", "1", "--revoke", "2", "--name", "shop", *ADMIN],
            "--name, --scope and --expires are for a new key alone.",
        ),
        (
            ["org", "key", "1", "--rotate", "2", "--network", "192.0.2.1", *ADMIN],
            "--network must be left out with --rotate and --revoke.",
        ),
        (
            ["queue", "drain", "normal", "--timeout", "5", *ADMIN],
            "--timeout must be left out without --wait.",
        ),
        (["send", "--to", "+1", "--text", "x", "--limit", "5"], "--limit must be left out without --file."),
        (
            ["send", "--file", "good.csv", "--run-key", "a\nb", *ENGINE],
            "--run-key must be 1 to 100 printable ASCII characters, without spaces.",
        ),
        (
            ["org", "show", "9" * 5000, *ADMIN],
            "ID must be a whole number of fewer digits.",
        ),
        (["status", "--interval", "5"], "--interval must be left out without --watch."),
        # As a script has it whose variable is empty.
        (["org", "senders", "1", "--default", "", *ADMIN], "--default must not be empty; `smsengine org"),
        (["org", "senders", "1", "--allow", "A", "--allow", "", *ADMIN], "--allow must not be empty;"),
        (["report", "--by", "", *ADMIN], "--by must not be empty; `smsengine report --help` says what"),
        (["report", "--queue", "", *ADMIN], "--queue must not be empty;"),
        (["report", "--time-zone", "", *ADMIN], "--time-zone must not be empty;"),
        (["report", "--organisation", "0", *ADMIN], "--organisation must be 1 or more."),
        (["status", "--data-dir", ""], "--data-dir must not be empty;"),
        (["price", "set", "", *ADMIN], "FILE|PREFIX=UNITS must not be empty; `smsengine price set --help`"),
        (["price", "set", "+98=1", "+98=2", *ADMIN], "The prefix '+98' must be given only once."),
        (["report", "--by", "status", "--by", "hour", *ADMIN], "--by must be given only once."),
        (["report", "--since", "900000d", *ADMIN], "--since must be a time with its time zone, such as"),
        (["report", "--until", "", *ADMIN], "--until must be a time with its time zone, such as"),
        (["send"], "--to is missing (or --file, to send a file of messages)."),
        (["send", "--to", "+1"], "--text is missing (or --file, to send a file of messages)."),
        # As Python hands on an argument in Latin-1.
        (["send", "--to", "+1", "--text", "\udce9", *ENGINE], "--text must be UTF-8."),
        (
            ["send", "--to", "+1", "--text", "x", "--reference", "\udce9", *ENGINE],
            "--reference must be UTF-8.",
        ),
        (["org", "create", "\udce9", *ADMIN], "NAME must be UTF-8."),
        (["org", "topup", "1", "5", "--reference", "\udce9", *ADMIN], "--reference must be UTF-8."),
        (["changes", "--since", "monday", *ADMIN], "--since must be a time with its time zone, such as"),
        (
            ["admin-key", "create", "x", "--scope", "root", *ADMIN],
            "--scope must be one of read, operate, money, all, not 'root'.",
        ),
        (["admin-key", "create", "x", *ADMIN], "Missing option '--scope'"),
        (
            ["admin-key", "create", "x", "--scope", "read", "--expires", "0d", *ADMIN],
            "--expires must be a time",
        ),
        (["send", "--queue", "slow"], "--queue must be one of express, normal."),
        (["send", "--validity", "0", "--to", "+1", "--text", "x"], "--validity must be at least 1 second."),
        (["send", "--validity", "soon"], "--validity must be a whole number."),
        (["send", "--file", "none.csv", *ENGINE], "none.csv cannot be read: No such file or directory."),
        (["send", "--file", ".", "--format", "csv", *ENGINE], "nothing listens there"),
        (["send", "--file", "messages.txt", *ENGINE], "must end in .csv or .jsonl"),
        (["send", "--file", "good.csv", "--batch", "1001"], "--batch must be 1000 or less."),
        (
            ["send", "--file", "good.csv", *ENGINE],
            "http://127.0.0.1:9 cannot be reached: nothing listens there.",
        ),
        (["send", "--to", "+1", "--text", "x"], "/data; start one with `smsengine up`"),
        (["send", "--to", "+1", "--text", "x", *ENGINE[:2]], "An API key is needed: --api-key or SMSENGINE"),
        (["send", "--to", "+1", "--text", "x", "--api-key", "k"], "No running engine is known in the data"),
        (["send", "--to", "+1", "--text", "x", *ENGINE], "cannot be reached: nothing listens there."),
        (["send", "--to", "+1", "--text", "x", "--url", "ftp://x", "--api-key", "k"], "http://HOST:PORT"),
        (["send", "--to", "+1", "--text", "x", "--url", "http://h:port", "--api-key", "k"], "is not valid"),
        (["send", "--to", "+1", "--text", "x", "--url", "http://h", "--api-key", "a b"], "without spaces"),
        (["status"], "/data; start one with `smsengine up`, or name one with --data-dir or --url."),
        (["reload"], "No running engine is known in the data directory /"),
        (["log-level", "debug"], "No running engine is known in the data directory /"),
        (["status", *ENGINE[:2]], "The admin key is needed: --admin-key or SMSENGINE_ADMIN_KEY."),
        (["status", *ADMIN], "cannot be reached: nothing listens there."),
        (["status", "--watch", "--interval", "0"], "--interval must be 0.1 or more."),
        (["audit", *ADMIN], "cannot be reached: nothing listens there."),
        (["org", "create", *ADMIN], "Missing argument 'NAME'"),
        (["org", "topup", "1", "0", "--reference", "r", *ADMIN], "UNITS must be 1 or more."),
        (["org", "topup", "one", "5", "--reference", "r", *ADMIN], "ID must be a whole number."),
        (["org", "topup", "1", "5", *ADMIN], "Missing option '--reference'"),
        (["org", "topup", "1", "-5", "--reference", "r", *ADMIN], "must not be below 0, as -5 is."),
        (["org", "topup", "1", "-50", "--reference", "r", *ADMIN], "must not be below 0, as -50 is."),
        (["price", "set", "+98", *ADMIN], "'+98' must be PREFIX=UNITS with a whole number, such as +98=2."),
        (
            ["send", "--file", "good.csv", "--refused", "./good.csv", *ENGINE],
            "--refused must name another file than --file, not good.csv.",
        ),
        (
            ["send", "--file", "good.csv", "--refused", "new.jsonl", "--accepted", "./new.jsonl", *ENGINE],
            "--accepted must name another file than --refused, not new.jsonl.",
        ),
        (["queue", "scale", "express", "-1", *ADMIN], "A number here must not be below 0, as -1 is."),
        (["org", "list", *ADMIN], "cannot be reached: nothing listens there."),
        (["check", "--config", "none.toml"], "The configuration none.toml cannot be read"),
        (["migrate", "--config", "no.toml"], "no.toml is not TOML"),
        (["migrate"], "There is nothing to migrate: there is no data directory /"),
        (["up", "--config", "none.toml"], "none.toml cannot be read: No such file or directory."),
        (
            ["up", "--config", "unknown.toml"],
            "unknown.toml: http.port is no setting; those here are: admin_key_file, body",
        ),
        (["up"], "No SMS provider is configured; add a [[providers]] section"),
        (["up", "--config", "no_provider.toml"], "No SMS provider is configured"),
        (["up", "--demo", "--listen", "8080"], "--listen must be HOST:PORT, not '8080'."),
        (["up", "--demo", "--listen", "127.0.0.1:99999"], "--listen must be HOST:PORT"),
        (["simulator", "--latency-ms", "-1"], "--latency-ms"),
        (["simulator", "--no-such"], "--no-such"),
        (["simulator", "--seed", "x"], "smsengine: --seed must be a whole number."),
        (["simulator", "--latency-ms", "x"], "smsengine: --latency-ms must be a number."),
        (["simulator", "--throughput", "0"], "at most 1000000000 a second; without it: no bound."),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("smsengine: ")
    assert sentence in printed.err
    assert len(printed.err.splitlines()) == 1
    assert not Path("data").exists()


def test_a_group_of_commands_alone_prints_its_help_and_no_empty_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(["org"]) == 2
    printed = capsys.readouterr()
    assert "smsengine org [OPTIONS] COMMAND" in printed.out
    assert printed.err == ""


def smsengine(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return warm.run(
        [sys.executable, "-m", "supervisor.cli", *arguments],
        capture_output=True, text=True, timeout=60, env=os.environ | variables,
    )  # fmt: skip


def refused(*arguments: str, **variables: str) -> str:
    """The sentence of a command that ends with exit code 2."""
    done = smsengine(*arguments, **variables)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    return line


def test_a_port_that_is_taken_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert refused("up", "--demo", "--data-dir", "here", "--listen", address) == (
            f"smsengine: The API cannot listen on {address}: address already in use; "
            "name another address with --listen."
        )
    assert "cannot listen on 192.0.2.1:80: " in refused("up", "--demo", "--listen", "192.0.2.1:80")
    assert "cannot listen on no.invalid:80: " in refused("up", "--demo", "--listen", "no.invalid:80")


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    before = {p.name for p in tmp_path.iterdir()}
    assert refused("up", "--demo", "--data-dir", str(tmp_path)) == (
        f"smsengine: {tmp_path} is not empty and no data directory of smsengine; "
        "name another with --data-dir."
    )
    assert {p.name for p in tmp_path.iterdir()} == before


def test_an_old_or_newer_data_directory_is_left_alone(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    (old / "format").write_text("0\n")
    assert "has data format '0' and this smsengine reads only 1;" in refused(
        "up", "--demo", SMSENGINE_DATA_DIR=str(old)
    )
    assert [p.name for p in old.iterdir()] == ["format"]


def test_a_data_directory_that_cannot_be_made_is_one_sentence() -> None:
    assert "The data directory /proc/none cannot be used: " in refused(
        "up", "--demo", "--data-dir", "/proc/none"
    )
    assert "good.csv" in refused("up", "--demo", "--data-dir", "good.csv")


def test_stores_that_cannot_be_reached_are_one_sentence() -> None:
    done = smsengine(
        "up", "--demo", "--config", "stores.toml", "--data-dir", "here", "--listen", "127.0.0.1:0"
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "smsengine: Redis at redis://127.0.0.1:9 cannot be reached: "
    )
    assert "Traceback" not in done.stderr
    checked = smsengine("check", "--config", "stores.toml", "--data-dir", "here")
    assert checked.returncode == 1
    assert checked.stdout.count("NOT OK") == 5
    assert checked.stderr == ""


def test_every_command_explains_itself() -> None:
    commands = ["up", "check", "migrate", "send", "status", "audit", "simulator", "org"]
    shown = smsengine("--help")
    assert shown.returncode == 0
    for command in commands:
        assert f" {command} " in shown.stdout
        explained = smsengine(command, "--help")
        assert explained.returncode == 0
        assert f"smsengine {command}" in explained.stdout
    assert smsengine("--version").stdout.startswith("smsengine 0.")


def test_help_needs_no_store_and_no_server() -> None:
    """What makes a command slow to start is loaded only by those that need it."""
    code = "import sys, supervisor.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                            cwd=Path(cli.__file__).parents[1]).stdout.split()  # fmt: skip
    assert {"asyncpg", "clickhouse_connect", "aiohttp", "redis", "chdb"} & set(loaded) == set()
