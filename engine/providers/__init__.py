"""Ways to hand messages to carriers, one module for each kind of provider."""

from __future__ import annotations

from engine.ports import Provider, ReceiptSink
from engine.provider_settings import (
    CustomSettings,
    HttpSettings,
    ProviderSettings,
    SimulatedSettings,
    SmppSettings,
)
from engine.providers.custom import custom_provider
from engine.providers.http_provider import HttpProvider
from engine.providers.simulated import SimulatedProvider
from engine.providers.smpp import SmppProvider


def build(settings: ProviderSettings, receipts: ReceiptSink) -> Provider:
    """The provider that a `[[providers]]` section describes, not yet started; the receipts it
    is sent go to `receipts`.

    Raises ConfigError naming the setting when the section cannot be used.
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
