"""A table out of a TOML file that an operator wrote; the file may be a whole configuration."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TypeVar

import msgspec

from engine.errors import ConfigError

T = TypeVar("T")


def read(path: Path, record: type[T], noun: str, must: str) -> T:
    """The file (a byte order mark is passed over) as `record`, which passes over what else stands there.

    `noun` is what the file holds, `must` what it needs, for a sentence. Raises ConfigError.
    """
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8-sig")), record)
    except OSError as e:
        raise ConfigError(f"The {noun} {path} cannot be read: {e.strerror}.") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path} is not TOML: {e}.") from e
    except msgspec.ValidationError as e:
        raise ConfigError(f"{path} must have {must}: {e}.") from e
