"""How recipients' numbers are stored in ClickHouse, by the settings."""

from __future__ import annotations

from engine.activity.numbers import PLAIN, Numbers
from engine.config import Config
from engine.providers.secret import secret


def numbers_for(config: Config) -> Numbers:
    """By `[activity] numbers` and its key. Raises ConfigError when the file of the key cannot be read."""
    settings = config.activity
    key = secret("", settings.numbers_key_file, "activity.numbers_key")
    return Numbers(key.encode(), hashed=settings.numbers == "hashed") if key else PLAIN
