"""What a connection to a provider is, in words, for whoever watches it (`engine.providers.ports.Wire`)."""

from __future__ import annotations

import asyncio


def describe_transport(transport: asyncio.Transport) -> bytes:
    """The address of the other side and, with TLS, its version, cipher and certificate."""
    peer = transport.get_extra_info("peername")
    words = f"{peer[0]} port {peer[1]}" if isinstance(peer, tuple) else str(peer)
    tls = transport.get_extra_info("ssl_object")
    if tls is None:
        return f"{words}, without TLS".encode()
    subject = dict(pair for name in (tls.getpeercert() or {}).get("subject", ()) for pair in name)
    cipher = tls.cipher()
    return (
        f"{words}, {tls.version()}, {cipher[0] if cipher else 'no cipher'}, "
        f"certificate of {subject.get('commonName', 'nobody named')}"
    ).encode()
