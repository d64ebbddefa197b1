"""What a process knows of the series of counts."""

from __future__ import annotations

from engine.activity.report_rolling import Series
from engine.stores.clickhouse.report_series import KnownSeries


async def test_a_late_answer_does_not_set_back_how_far_a_series_is_counted() -> None:
    async def ask() -> tuple[int, list[Series]]:
        return 50, [Series(zone="UTC", from_ms=0, filled=True, until_ms=1000, narrow=True)]

    known = KnownSeries(ask)
    _, series, _ = await known.known(anew=False)
    for counted, until_ms in ((900, 1000), (3000, 3000), (2000, 3000)):
        known.went_on(series, [counted])
        _, [now], is_new = await known.known(anew=False)
        assert (now.until_ms, is_new) == (until_ms, False)
