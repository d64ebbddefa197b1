"""Rule: networks of IP addresses, and which addresses are in them.

An IPv4 address that is written as an IPv6 one (`::ffff:203.0.113.9`, RFC 4291, section 2.5.5.2) counts as the
IPv4 address: that is how a socket for both shows its IPv4 callers.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# So many networks one list may have.
NETWORKS_MAX = 100
NETWORKS_ALLOWED = (
    f"at most {NETWORKS_MAX} networks or addresses, such as 203.0.113.0/24, 2001:db8::/32 or 203.0.113.9,"
    " with no bit set behind the prefix"
)
_ADDRESS = re.compile(r"[0-9A-Fa-f:.]{2,45}")
_NETWORK = re.compile(r"[0-9A-Fa-f:.]{2,45}(/[0-9]{1,3})?")
_MAPPED = IPv6Network("::ffff:0:0/96")
_MAPPED_BITS = 96


def address_of(text: str) -> Address | None:
    """The address that the text is; None when it is none, or has a zone."""
    try:
        address = ipaddress.ip_address(text) if _ADDRESS.fullmatch(text) else None
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def network_of(text: str) -> Network | None:
    """The network that the text is; an address is a network of one. None when it is none."""
    try:
        network = ipaddress.ip_network(text) if _NETWORK.fullmatch(text) else None
    except ValueError:
        return None
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        octets = network.network_address.packed[12:]
        return IPv4Network((octets, network.prefixlen - _MAPPED_BITS))
    return network


def networks_of(texts: Collection[str]) -> tuple[Network, ...] | None:
    """The networks in a list, each once; None when one of them is none, or there are too many."""
    found = [network_of(text) for text in texts] if len(texts) <= NETWORKS_MAX else [None]
    networks = [network for network in found if network is not None]
    return tuple(dict.fromkeys(networks)) if len(networks) == len(found) else None


def is_within(address: Address, networks: Iterable[Network]) -> bool:
    """Whether the address is in one of the networks."""
    return any(address in network for network in networks)
