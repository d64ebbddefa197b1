"""Connects to a host that may have several addresses, as RFC 8305 has it.

Many names have an IPv6 and an IPv4 address, or the addresses of several machines. When the first of
them swallows what is sent to it (a route that leads nowhere, a machine that is off), one attempt after
another would use up the caller's whole time at the first address, each time anew. So the next address
is tried CONNECT_NEXT_S after the one before, and the first connection that stands is taken.

Killed, or given up by the caller's time-out, while it connects: all attempts are closed. Nothing has been
sent by then.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Callable
from typing import TypeVar

import aiohappyeyeballs

from engine.hosts.resolving import NAMES

# How long an address may take before the next one is tried too, seconds (RFC 8305, section 8).
CONNECT_NEXT_S = 0.25

ProtocolT = TypeVar("ProtocolT", bound=asyncio.Protocol)


class AddressRefused(OSError):
    """The host has an address that must not be connected to."""


async def connect(
    made: Callable[[], ProtocolT],
    host: str,
    port: int,
    *,
    tls: ssl.SSLContext | None = None,
    permitted: Callable[[str], bool] | None = None,
) -> ProtocolT:
    """Connect a protocol that `made` makes to `host`, a name or an address; returns it once it is connected.

    `permitted`: whether an IP address may be connected to; None: any. The connection goes to the address
    that was asked about, whatever the name means a moment later.

    Raises OSError when no address can be reached, AddressRefused (one of them) when one is not permitted,
    UnicodeError for what can be no name. The caller sets the time limit.
    """
    loop = asyncio.get_running_loop()
    if _is_address(host):
        if permitted is not None and not permitted(host):
            raise AddressRefused(host)
        return (await loop.create_connection(made, host, port, ssl=tls))[1]
    found = await NAMES.addresses(host, port)
    if permitted is not None:
        # One that is not permitted is reason enough: a name of the Internet has none among its addresses.
        for *_, place in found:
            if not permitted(str(place[0])):
                raise AddressRefused(host)
    sock = await aiohappyeyeballs.start_connection(found, happy_eyeballs_delay=CONNECT_NEXT_S)
    try:
        server_hostname = host if tls else None
        return (await loop.create_connection(made, sock=sock, ssl=tls, server_hostname=server_hostname))[1]
    except BaseException:
        sock.close()
        raise


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
