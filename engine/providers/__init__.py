"""Ways to hand messages to carriers, one module for each kind of provider."""

from __future__ import annotations

from engine.config import ProviderSettings
from engine.ports import Provider
from engine.providers.simulated import SimulatedProvider


def build(settings: ProviderSettings) -> Provider:
    """The provider that a `[[providers]]` section describes, not yet started.

    Raises ConfigError naming the setting when the section cannot be used.
    """
    # The type is a Literal: anything else did not get past the configuration.
    return SimulatedProvider(settings)
