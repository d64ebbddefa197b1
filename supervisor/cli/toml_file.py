"""Reads one table of a TOML file that an operator wrote; the file may be a whole configuration."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TypeVar

import msgspec

from engine import text_file
from engine.errors import ConfigError
from engine.text_file import NotUtf8

T = TypeVar("T")


def read(path: Path, record: type[T], noun: str, must: str) -> T:
    """Read the file as a `record`; other keys in it, and a byte order mark, are passed over.

    `noun` says what the file holds and `must` what it needs, for the sentence of an error. Raises
    ConfigError when it cannot be read, is no TOML, or has not what it needs.
    """
    try:
        return msgspec.convert(tomllib.loads(text_file.read(path)), record)
    except (OSError, NotUtf8) as e:
        reason = e.strerror if isinstance(e, OSError) else e
        raise ConfigError(f"The {noun} {path} cannot be read: {reason}.") from e
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"{path} is not TOML: {e}.") from e
    except msgspec.ValidationError as e:
        raise ConfigError(f"{path} must have {must}: {e}.") from e
