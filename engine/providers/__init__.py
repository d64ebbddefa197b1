"""Adapters that hand messages to providers, one for each `type` of a `[[providers]]` section."""

from __future__ import annotations

from collections.abc import Iterable

from engine.providers.custom import custom_provider
from engine.providers.http.description import ReceiptReader, receipt_reader
from engine.providers.http.provider import HttpProvider
from engine.providers.http.simulated import SimulatedProvider
from engine.providers.ports import Provider
from engine.providers.settings import (
    CustomSettings,
    HttpSettings,
    ProviderSettings,
    SimulatedSettings,
    SmppSettings,
)
from engine.providers.smpp.provider import SmppProvider
from engine.receipts.ports import ReceiptSink


def build(settings: ProviderSettings, receipts: ReceiptSink) -> Provider:
    """The adapter for the provider of one `[[providers]]` section, not yet started.

    The receipts that the provider sends go to `receipts`. Raises ConfigError naming the setting
    when the section cannot be used.
    """
    match settings:
        case SimulatedSettings():
            return SimulatedProvider(settings)
        case SmppSettings():
            return SmppProvider(settings, receipts)
        case HttpSettings():
            return HttpProvider(settings)
        case CustomSettings():
            return custom_provider(settings, receipts)


def receipt_readers(sections: Iterable[ProviderSettings]) -> dict[str, ReceiptReader]:
    """By name of the provider: the reader of receipts that it pushes to the API. Raises ConfigError."""
    found = {s.name: receipt_reader(s) for s in sections if isinstance(s, HttpSettings)}
    return {name: reader for name, reader in found.items() if reader is not None and reader.token}
