"""The settings of what is recorded."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from engine.providers.secret import secret

# A shorter key could be guessed.
_KEY_MIN = 16


class ActivitySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[activity]`: how what is recorded is kept in ClickHouse, and how long."""

    # Whether recipients' numbers are stored as they are, or as keyed hashes (docs/operations.md). What is
    # stored already stays as it is.
    numbers: Literal["plain", "hashed"] = "plain"
    # A file whose first line is the key of the hashes, the same on all nodes; "": one is made in the data
    # directory, where ClickHouse is embedded. Also needed after hashing was switched off, to find what is
    # hashed.
    numbers_key_file: str = ""
    # So many days after the acceptance of a message its recipient's number is removed from its rows; None: it
    # stays. All else of the rows stays, so that reports and audits are as before. Receipts look for their
    # messages, by their numbers too, for eight days.
    numbers_days: Annotated[int, Meta(ge=9, le=36_500)] | None = None
    # The texts of messages are recorded with their acceptance, and removed so many days after it; an
    # organisation sees them in the history of a message and in exports, operators do not. None: texts are not
    # recorded, and those that were go.
    texts_days: Annotated[int, Meta(ge=1, le=36_500)] | None = None
    # Events of messages stay so many days after the end of the month in which their message was accepted, and
    # then go as a whole: histories, lists and exports no longer have those messages, reports by the quarter
    # of an hour still do. None: they stay. A message may be scheduled five weeks ahead, and be valid for one
    # more.
    events_days: Annotated[int, Meta(ge=62, le=36_500)] | None = None
    # The same of what recipients wrote.
    inbound_days: Annotated[int, Meta(ge=1, le=36_500)] | None = None
    # Counts by minute, for reports by minute and for plans from the activity, stay so many days. Counts by
    # the quarter of an hour, for all other reports, stay for good.
    minutes_days: Annotated[int, Meta(ge=31, le=36_500)] = 400


def wrong(settings: ActivitySettings, *, own_store: bool) -> tuple[str, str] | None:
    """The setting that cannot be, and what is allowed; None when all is right. `own_store`: ClickHouse is
    embedded.

    Raises ConfigError when the file of the key cannot be read.
    """
    key = secret("", settings.numbers_key_file, "activity.numbers_key")
    if key and len(key) < _KEY_MIN:
        return "activity.numbers_key_file", f"a file whose first line has at least {_KEY_MIN} characters"
    # The erasure of a number finds a message's text by the number.
    if settings.texts_days and settings.numbers_days and settings.texts_days > settings.numbers_days:
        return "activity.texts_days", "at most as many as activity.numbers_days"
    if settings.numbers == "hashed" and not key and not own_store:
        return (
            "activity.numbers_key_file",
            "given with clickhouse.url or clickhouse.urls, the same key on all nodes",
        )
    return None
