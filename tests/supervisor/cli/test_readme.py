"""What the README shows is so."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import typer.main

from engine import config
from supervisor.cli import app
from supervisor.cli.message_file import MessageFile
from supervisor.simulator.options import options as simulator_options

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_configuration_is_valid() -> None:
    (toml,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    assert config.decode(toml, "README").queues.express.concurrency == 200


def test_the_configurations_of_the_page_on_providers_are_valid() -> None:
    page = (ROOT / "docs" / "providers.md").read_text(encoding="utf-8")
    for toml in re.findall(r"```toml\n(.*?)```", page, re.DOTALL):
        tables = tomllib.loads(re.sub(r"^ {3}", "", toml, flags=re.MULTILINE))
        named = {name for route in tables.get("routes", ()) for name in route["providers"]}
        missing = named - {p["name"] for p in tables.get("providers", ())}
        others = "".join(f'[[providers]]\nname = "{name}"\ntype = "simulated"\n' for name in missing)
        config.decode(re.sub(r"^ {3}", "", toml, flags=re.MULTILINE) + others, "docs/providers.md")


def test_its_messages_are_valid(tmp_path: Path) -> None:
    (csv,) = re.findall(r"```csv\n(.*?)```", README, re.DOTALL)
    (tmp_path / "m.csv").write_text(csv)
    (line,) = MessageFile(path=tmp_path / "m.csv", format="csv").lines()
    assert line.draft is not None


def test_its_commands_and_options_exist() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    shown = [
        line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()
    ]
    used = [re.findall(r"bin/smsengine (.*?)(?:  |$)", line) for line in shown]
    lines = [words[0].split() for words in used if words]
    assert len(lines) >= 8
    for first, *rest in lines:
        if first == "simulator":
            # It reads its own flags, and says which are wrong.
            simulator_options(rest)
            continue
        command = commands[first]
        if hasattr(command, "commands"):
            command = command.commands[rest[0]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= known


def test_its_links_lead_to_files() -> None:
    links = re.findall(r"\]\(((?!https?:)[^)#]+)", README)
    named = re.findall(
        r"(?:^|[\s`])((?:docs|deploy|engine|examples|supervisor|tests)/[\w./-]*)", README, re.MULTILINE
    )
    assert "docs/operations.md" in links
    assert {name for name in (*links, *named) if not (ROOT / name.rstrip(".")).exists()} == set()


def test_its_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)\b(?!\.)", README)) <= targets


def test_every_dependency_has_its_line() -> None:
    explained = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    embedded = (ROOT / "requirements-embedded.txt").read_text().splitlines()
    extras = [w for extra in project["optional-dependencies"].values() for w in extra]
    wanted = [*project["dependencies"], *extras, *embedded]
    names = {found[0] for w in wanted if (found := re.match(r"[A-Za-z][\w-]*", w))}
    assert len(names) > 20
    assert {name for name in names if f"`{name}`" not in explained} == set()
