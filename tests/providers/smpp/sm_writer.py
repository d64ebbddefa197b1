"""Writes data_sm, which the engine only reads: a carrier may send receipts by it."""

from __future__ import annotations

from engine.providers.smpp.body import (
    ADDRESS_OCTETS,
    SERVICE_TYPE_OCTETS,
    ShortMessage,
    encode_parameters,
    octets,
)


def encode_data_sm(m: ShortMessage) -> bytes:
    """The body of a data_sm (SMPP 3.4, 4.7.1), which has no more than these fields."""
    return b"".join(
        (
            octets("service_type", m.service_type, SERVICE_TYPE_OCTETS),
            bytes((m.source_ton, m.source_npi)),
            octets("source", m.source, ADDRESS_OCTETS),
            bytes((m.destination_ton, m.destination_npi)),
            octets("destination", m.destination, ADDRESS_OCTETS),
            bytes((m.esm_class, m.registered_delivery, m.data_coding)),
            encode_parameters(m.parameters),
        )
    )
