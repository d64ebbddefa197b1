"""The settings of what is recorded."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class ActivitySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[activity]`: how long what is recorded stays in ClickHouse."""

    # So many days after the acceptance of a message its recipient's number is removed from its rows; None: it
    # stays. All else of the rows stays, so that reports and audits are as before. Receipts look for their
    # messages, by their numbers too, for eight days.
    numbers_days: Annotated[int, Meta(ge=9, le=36_500)] | None = None
    # Counts by minute, for reports by minute and for plans from the activity, stay so many days. Counts by
    # the quarter of an hour, for all other reports, stay for good.
    minutes_days: Annotated[int, Meta(ge=31, le=36_500)] = 400
