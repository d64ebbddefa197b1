"""Each command that a page, or a sentence of the engine, tells an operator to run exists, with options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from supervisor.cli import app

COMMANDS = typer.main.get_command(app)
ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SENTENCES = [path for folder in ("engine", "supervisor", "deploy") for path in (ROOT / folder).rglob("*")]
# In a text; on a line of its own in a block of commands; in a help; in a sentence of the status.
IN_TEXT = re.compile(r"`(?:\S*bin/)?smsengine\s+([a-z][^`]*)`")
ON_A_LINE = re.compile(r"^(?:\S*bin/)?smsengine ([a-z][^#\n]*)", re.MULTILINE)
IN_HELP = re.compile(r"\[cyan\]smsengine ([a-z][^\[]*)\[/cyan\]")
IN_STATUS = re.compile(r"\((?:run|see) smsengine ([^)]*)\)")


def named_in(text: str) -> list[str]:
    """All command lines in a text, without the word smsengine."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    return [
        *IN_TEXT.findall(text), *ON_A_LINE.findall(blocks), *IN_HELP.findall(text), *IN_STATUS.findall(text),
    ]  # fmt: skip


def wrong_in(line: str) -> str:
    """What of a command line is not there; "" when all of it is."""
    command = COMMANDS
    words = re.split(r"\s+(?:\||&&|>)|\n", line)[0].split()
    while words and hasattr(command, "commands"):
        # `route list|set` names several.
        for name in (names := words.pop(0).rstrip(".,;:").split("|")):
            if name not in command.commands:
                return f"there is no command {name!r}"
        command = command.commands[names[0]]
    if command.name == "simulator":
        # It reads its own options.
        return ""
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    unknown = {word.rstrip(".,;:").split("=")[0] for word in words if word.startswith("--")} - known
    return f"there is no option {', '.join(sorted(unknown))}" if unknown else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_exist(page: Path) -> None:
    lines = named_in(page.read_text(encoding="utf-8"))
    assert {line: wrong for line in lines if (wrong := wrong_in(line))} == {}


def test_the_commands_in_sentences_of_the_engine_exist() -> None:
    files = [path for path in SENTENCES if path.suffix in (".py", ".yml", ".toml", ".json")]
    lines = [line for path in files for line in named_in(path.read_text(encoding="utf-8"))]
    assert len(lines) > 50
    assert {line: wrong for line in lines if (wrong := wrong_in(line))} == {}
