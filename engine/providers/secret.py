"""Secrets that stand in a file instead of the configuration."""

from __future__ import annotations

from pathlib import Path

from engine import text_file
from engine.errors import ConfigError
from engine.text_file import NotUtf8

_BYTES_MAX = 4096


def secret(value: str, file: str, setting: str) -> str:
    """`value`, or the first line of `file` when one is named; "" when neither is.

    Raises ConfigError naming `setting` (the value's; the file's is the same with `_file`)
    when both are given or the file cannot be read.
    """
    if not file:
        return value
    if value:
        raise ConfigError(f"{setting} must be given once: there is {setting}_file too.")
    try:
        with Path(file).open("rb") as lines:
            line = text_file.decoded(lines.readline(_BYTES_MAX)).rstrip("\r\n")
    except (OSError, NotUtf8) as e:
        reason = e.strerror if isinstance(e, OSError) else e
        raise ConfigError(f"{setting}_file: {file} cannot be read: {reason}.") from e
    if not line:
        raise ConfigError(f"{setting}_file: the first line of {file} is empty.")
    return line
