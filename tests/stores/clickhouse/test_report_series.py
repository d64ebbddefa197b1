"""What a process knows of the series of counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.stores.clickhouse.report_series import KnownSeries


async def test_a_late_answer_does_not_set_back_how_far_a_series_is_counted() -> None:
    async def query(sql: str, parameters: dict[str, Any]) -> Sequence[Sequence[Any]]:
        return [("UTC", 0, 1, 1000, 1, 50)]

    known = KnownSeries(query)
    _, series, _ = await known.known(anew=False)
    for counted, until_ms in ((900, 1000), (3000, 3000), (2000, 3000)):
        known.went_on(series, [counted])
        _, [now], is_new = await known.known(anew=False)
        assert (now.until_ms, is_new) == (until_ms, False)
