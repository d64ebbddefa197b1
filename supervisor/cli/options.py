"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from supervisor.cli.client import Client
from supervisor.cli.locate import Whereabouts
from supervisor.datadir import DEFAULT

_ENGINE = "Which engine"

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="SMSENGINE_DATA_DIR",
        metavar="DIR",
        help=f"Data directory of the engine.  \\[default: {DEFAULT}]",
        rich_help_panel=_ENGINE,
    ),
]
Url = Annotated[
    str,
    typer.Option(
        "--url",
        envvar="SMSENGINE_URL",
        metavar="URL",
        help="Address of the engine; without it, the one that runs in the data directory.",
        rich_help_panel=_ENGINE,
    ),
]
ApiKey = Annotated[
    str,
    typer.Option(
        "--api-key",
        envvar="SMSENGINE_API_KEY",
        metavar="KEY",
        help="Key of the organisation; without it, that of the demo organisation in the data directory.",
        rich_help_panel=_ENGINE,
    ),
]
AdminKey = Annotated[
    str,
    typer.Option(
        "--admin-key",
        envvar="SMSENGINE_ADMIN_KEY",
        metavar="KEY",
        help="Admin key; without it, the one in the data directory.",
        rich_help_panel=_ENGINE,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="TOML file with the settings."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def whereabouts(
    data_dir: Path | None, url: str = "", *, api_key: str = "", admin_key: str = ""
) -> Whereabouts:
    return Whereabouts(data_dir=data_dir or DEFAULT, url=url, api_key=api_key, admin_key=admin_key)


def admin(data_dir: Path | None, url: str, admin_key: str) -> Client:
    """A client with the admin key. Raises ConfigError when URL or key is not to be had."""
    return whereabouts(data_dir, url, admin_key=admin_key).admin()
