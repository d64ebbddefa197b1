"""Ways to hand messages to providers, one module for each kind of provider."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from engine.clocks.store_clock import wall_us
from engine.inbound.ports import InboundSink
from engine.providers.custom import custom_provider
from engine.providers.http.description import InboundReader, ReceiptReader, inbound_reader, receipt_reader
from engine.providers.http.provider import HttpProvider
from engine.providers.http.simulated import SimulatedProvider
from engine.providers.ports import Provider, Wire
from engine.providers.problems import Problems
from engine.providers.secret import secret_spellings
from engine.providers.settings import (
    CustomSettings,
    HttpSettings,
    ProviderSettings,
    SimulatedSettings,
    SmppSettings,
)
from engine.providers.simulated_numbers import SimulatedNumbers, with_simulated_numbers
from engine.providers.smpp.provider import SmppProvider
from engine.providers.smpp.session import Counts
from engine.receipts.ports import ReceiptSink
from engine.records import NO_RECEIPTS, RECEIPTS_BY_ANY_ID, RECEIPTS_BY_THEIR_ID


def build(
    settings: ProviderSettings,
    receipts: ReceiptSink,
    problems: Problems,
    wire: Wire | None = None,
    now_us: Callable[[], int] = wall_us,
    inbound: InboundSink | None = None,
) -> Provider:
    """The provider that a `[[providers]]` section describes, not yet started; the receipts it
    is sent go to `receipts`, what it does not understand is noted in `problems`. Messages that recipients
    write go to `inbound`; None: they are dropped. `wire` watches its connections; those of a custom provider
    cannot be watched. `now_us`: the time, UTC, microseconds since 1970. What is sent to a test number never
    reaches it (`simulated_numbers`).

    Raises ConfigError naming the setting when the section cannot be used.
    """
    problems.know(secret_spellings(settings))
    return with_simulated_numbers(
        _built(settings, receipts, problems, wire, now_us, inbound), receipts, now_us
    )


def _built(
    settings: ProviderSettings,
    receipts: ReceiptSink,
    problems: Problems,
    wire: Wire | None,
    now_us: Callable[[], int],
    inbound: InboundSink | None,
) -> Provider:
    match settings:
        case SimulatedSettings():
            return SimulatedProvider(settings, wire)
        case SmppSettings():
            return SmppProvider(settings, receipts, problems, wire, now_us, inbound)
        case HttpSettings():
            return HttpProvider(settings, problems, wire, now_us)
        case CustomSettings():
            return custom_provider(settings, receipts)


def traffic_counts(provider: Provider) -> Counts | None:
    """The counters of what happens on the connections of a provider by SMPP; None for any other."""
    inner = provider.inner if isinstance(provider, SimulatedNumbers) else provider
    return inner.counts if isinstance(inner, SmppProvider) else None


def receipts_by(settings: ProviderSettings) -> int:
    """How the receipts of a provider name a message that it has now: one of the three of `engine.records`.

    What is recorded of the message says so, and no room is made for receipts that cannot come. Raises
    ConfigError.
    """
    match settings:
        case SimulatedSettings():
            return NO_RECEIPTS
        case SmppSettings():
            return RECEIPTS_BY_THEIR_ID if settings.receipts else NO_RECEIPTS
        case HttpSettings():
            reader = receipt_reader(settings)
            if reader is None or not reader.token:
                return NO_RECEIPTS
            return RECEIPTS_BY_ANY_ID if reader.has_own_id else RECEIPTS_BY_THEIR_ID
        case CustomSettings():
            return RECEIPTS_BY_ANY_ID


def receipt_readers(
    sections: Iterable[ProviderSettings], problems: Problems | None = None
) -> dict[str, ReceiptReader]:
    """How to read the receipts of each provider that pushes them to the API, by its name.

    What is not understood in them is noted in `problems`. Raises ConfigError.
    """
    pushing = [s for s in sections if isinstance(s, HttpSettings)]
    if problems is not None:
        problems.know(spelling for one in pushing for spelling in secret_spellings(one))
    found = {s.name: receipt_reader(s, problems) for s in pushing}
    return {name: reader for name, reader in found.items() if reader is not None and reader.token}


def inbound_readers(sections: Iterable[ProviderSettings]) -> dict[str, InboundReader]:
    """How to read the messages that recipients write, of each provider that pushes them to the API, by its
    name. Raises ConfigError."""
    found = {s.name: inbound_reader(s) for s in sections if isinstance(s, HttpSettings)}
    return {name: reader for name, reader in found.items() if reader is not None}
