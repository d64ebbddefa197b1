"""Secrets that stand in a file instead of the configuration."""

from __future__ import annotations

import base64
from pathlib import Path

from engine import text_file
from engine.errors import ConfigError
from engine.providers.known_words import spellings
from engine.providers.settings import CustomSettings, HttpSettings, ProviderSettings, SmppSettings
from engine.text_file import NotUtf8

_BYTES_MAX = 4096
# Options of a custom provider with one of these in their name have a secret for a value.
_SECRET_NAMES = ("pass", "pwd", "secret", "token", "key", "auth")


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


def secret_spellings(settings: ProviderSettings) -> list[str]:
    """The secrets of a section, in every spelling that may stand on the wire.

    Raises ConfigError when a file cannot be read.
    """
    where = f"providers.{settings.name}"
    words: list[str] = []
    if isinstance(settings, SmppSettings | HttpSettings):
        words.append(secret(settings.password, settings.password_file, f"{where}.password"))
    if isinstance(settings, HttpSettings):
        words.append(secret(settings.receipt_token, settings.receipt_token_file, f"{where}.receipt_token"))
        if words[0]:
            words.append(base64.b64encode(f"{settings.username}:{words[0]}".encode()).decode())
    if isinstance(settings, CustomSettings):
        words += [
            value
            for name, value in settings.options.items()
            if isinstance(value, str) and any(part in name.lower() for part in _SECRET_NAMES)
        ]
    return [spelling for word in words for spelling in spellings(word)]
