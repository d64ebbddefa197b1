"""Secrets that stand in a file instead of the configuration."""

from __future__ import annotations

from pathlib import Path

from engine.errors import ConfigError

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
        with Path(file).open(encoding="utf-8") as lines:
            line = lines.readline(_BYTES_MAX).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "not UTF-8"
        raise ConfigError(f"{setting}_file: {file} cannot be read: {reason}.") from e
    if not line:
        raise ConfigError(f"{setting}_file: the first line of {file} is empty.")
    return line
