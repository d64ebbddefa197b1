"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from supervisor.cli.client import Client
from supervisor.cli.locate import Whereabouts
from supervisor.cli.text import flowing
from supervisor.datadir import DEFAULT
from supervisor.output import print_exactly

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
# As `Url`, for the admin calls, which have an address of their own.
AdminUrl = Annotated[
    str,
    typer.Option(
        "--url",
        envvar=["SMSENGINE_ADMIN_URL", "SMSENGINE_URL"],
        metavar="URL",
        help="Address of the admin calls, also unix:/PATH; without it, the engine in the data directory.",
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


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """The values of the shared options; an option that the command does not have keeps its default."""

    data_dir: Path | None = None
    url: str = ""
    admin_url: str = ""
    api_key: str = ""
    admin_key: str = ""
    as_json: bool = False

    @property
    def whereabouts(self) -> Whereabouts:
        """Which engine these options name."""
        return Whereabouts(
            data_dir=self.data_dir or DEFAULT, url=self.url or self.admin_url, api_key=self.api_key,
            admin_key=self.admin_key,
        )  # fmt: skip

    def node(self) -> str:
        """The name of the node of these options. Raises ConfigError when they name none."""
        return self.whereabouts.node()

    def admin(self, timeout_s: float = 30.0) -> Client:
        """A client with the admin key. Raises ConfigError as `Whereabouts.admin` does."""
        return self.whereabouts.admin(timeout_s)

    def print_json(self, fact: object) -> bool:
        """With --json print the fact as one line of JSON. Returns whether --json was given."""
        if self.as_json:
            print_exactly(msgspec.json.encode(fact, order="deterministic").decode())
        return self.as_json


_SHARED = {
    "data_dir": (DataDir, None),
    "url": (Url, ""),
    "admin_url": (AdminUrl, ""),
    "api_key": (ApiKey, ""),
    "admin_key": (AdminKey, ""),
    "as_json": (Json, False),
}


def engine_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that gives a command these options of EngineOptions, after its own.

    The command gets their values as its keyword argument `engine`, of type EngineOptions.
    """
    shared = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, annotation=_SHARED[name][0], default=_SHARED[name][1]
        )
        for name in names
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [parameter for name, parameter in signature.parameters.items() if name != "engine"]

        @functools.wraps(command)
        def with_engine(**given: Any) -> None:
            engine = EngineOptions(**{name: given.pop(name) for name in names})
            command(**given, engine=engine)

        with_engine.__doc__ = flowing(inspect.cleandoc(command.__doc__ or ""))
        # Typer reads the options of a command from its signature.
        with_engine.__signature__ = signature.replace(parameters=[*own, *shared])  # type: ignore[attr-defined]
        return with_engine

    return decorate


# For commands with the admin key, and for those with the key of an organisation.
admin_options = engine_options("data_dir", "admin_url", "admin_key", "as_json")
customer_options = engine_options("data_dir", "url", "api_key", "as_json")
