"""Ways to hand messages to carriers, one module for each kind of provider."""

from __future__ import annotations

from engine.ports import Provider, ReceiptSink
from engine.provider_settings import ProviderSettings, SimulatedSettings
from engine.providers.simulated import SimulatedProvider


def build(settings: ProviderSettings, receipts: ReceiptSink) -> Provider:
    """The provider that a `[[providers]]` section describes, not yet started; the receipts it
    is sent go to `receipts`.

    Raises ConfigError naming the setting when the section cannot be used.
    """
    match settings:
        case SimulatedSettings():
            return SimulatedProvider(settings)
    raise AssertionError(settings)
