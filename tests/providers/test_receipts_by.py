"""How the receipts of a provider name a message follows from its settings."""

from __future__ import annotations

import pytest

from engine.providers import receipts_by
from engine.providers.settings import (
    CustomSettings,
    HttpSettings,
    ProviderSettings,
    SimulatedSettings,
    SmppSettings,
)
from engine.records import NO_RECEIPTS, RECEIPTS_BY_ANY_ID, RECEIPTS_BY_THEIR_ID

_TOKEN = "a-word-of-their-own"


def _http(receipt: dict[str, object], token: str = _TOKEN) -> HttpSettings:
    return HttpSettings(name="p", url="https://sms.example.com", receipt=receipt, receipt_token=token)


@pytest.mark.parametrize(
    ("settings", "way"),
    [
        (SmppSettings(name="p", host="h", system_id="s"), RECEIPTS_BY_THEIR_ID),
        (SmppSettings(name="p", host="h", system_id="s", receipts=False), NO_RECEIPTS),
        (_http({"id": "json:id"}), RECEIPTS_BY_THEIR_ID),
        (_http({"id": "json:id", "own_id": "query:ours"}), RECEIPTS_BY_ANY_ID),
        (_http({"own_id": "query:ours"}), RECEIPTS_BY_ANY_ID),
        (_http({"id": "json:id"}, token=""), NO_RECEIPTS),
        (_http({}, token=""), NO_RECEIPTS),
        (SimulatedSettings(name="p"), NO_RECEIPTS),
        # Nobody knows what their module does.
        (CustomSettings(name="p", factory="m:f"), RECEIPTS_BY_ANY_ID),
    ],
)
def test_the_way_of_each_kind_of_provider(settings: ProviderSettings, way: int) -> None:
    assert receipts_by(settings) == way
