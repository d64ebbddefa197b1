"""Descriptions of providers' HTTP APIs, one TOML file each.

A preset has the tables `request`, `answer` and `receipt` of a provider of type "http"
(see `template`, `recognition` and `receipt` in `engine/providers/http/`) and may have `url`. It
saves the next operator with the same provider the work; a link to the provider's own
documentation stands at its top.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any

from engine.errors import ConfigError


def names() -> list[str]:
    """The presets that are installed."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def load(name: str, setting: str) -> dict[str, Any]:
    """The tables of a preset. Raises ConfigError naming `setting` when there is none of that name."""
    if name not in names():
        raise ConfigError(f"{setting} must be one of {', '.join(names())}, or left out, not {name!r}.")
    return tomllib.loads(resources.files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8"))
