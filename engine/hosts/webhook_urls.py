"""Rule: which URLs webhooks go to, and which addresses they may reach.

A webhook is a request that a customer lets the engine make. So that nobody reaches what stands beside the
engine, an address counts and not a name: each address that a name has is looked at when a connection is
made, and the connection goes to that very address. A name that has another address a moment later (DNS
rebinding) is looked at again with the next connection. No redirect is followed.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple
from urllib.parse import urlsplit

URL_LENGTH_MAX = 2000
ALLOWED = (
    "an https:// or http:// URL of at most 2,000 printable ASCII characters, without a user or a fragment"
)
# Networks whose addresses have an IPv4 address inside: NAT64 (RFC 6052), 6to4 (RFC 3056).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")
# What IANA gives out of IPv6 for the Internet. Whatever else there is has some local meaning, as
# IPv4-translated addresses have (RFC 2765, ::ffff:0:a.b.c.d) and segments of routes (RFC 9602, 5f00::/16).
_IPV6_INTERNET = ipaddress.ip_network("2000::/3")
# Within that, for documentation (RFC 9637); older versions of Python do not know it.
_IPV6_DOCUMENTATION = ipaddress.ip_network("3fff::/20")
# A public address that is the host's own service to its virtual machines in Azure.
_HOST_SERVICE = ipaddress.IPv4Address("168.63.129.16")


class Target(NamedTuple):
    """A URL taken apart."""

    url: str
    host: str
    port: int
    tls: bool
    # Path and query as they go into the request line.
    path: str

    @property
    def origin(self) -> str:
        """Scheme, host and port: URLs of one origin share connections and a circuit breaker."""
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"


def target_of(url: str) -> Target | None:
    """The parts of a URL; None when no webhook may go there."""
    if not url or len(url) > URL_LENGTH_MAX or not all("!" <= c <= "~" for c in url):
        return None
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    wrong = parts.username is not None or parts.password is not None or "#" in url or port == 0
    if parts.scheme not in ("http", "https") or not host or wrong or not _is_host(host):
        return None
    tls = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(url, host, port or (443 if tls else 80), tls, path)


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the Internet: it is not private, loopback, link-local, shared,
    reserved or of a group of receivers, and none of those hides inside an IPv6 address."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        # An address below ::/96 is an IPv4 address in an old notation.
        if ip in _NAT64_LOCAL or int(ip) >> 32 == 0:
            return False
        if inner is not None and not is_public(str(inner)):
            return False
        if ip.is_site_local:
            return False
        if inner is not None:
            return True
        if ip not in _IPV6_INTERNET or ip in _IPV6_DOCUMENTATION:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_unspecified and ip != _HOST_SERVICE


def names_private_address(target: Target) -> bool:
    """Whether the URL itself names an address that is not public. A name is looked at later."""
    try:
        ipaddress.ip_address(target.host)
    except ValueError:
        host = target.host.removesuffix(".")
        return host == "localhost" or host.endswith(".localhost")
    return not is_public(target.host)


def _is_host(host: str) -> bool:
    if ":" in host:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return "%" not in host
    last = host.removesuffix(".").rpartition(".")[2]
    if last.isdigit() or last.startswith("0x"):
        # No name ends in a number: it is an address, and there is one way to write it (not 127.1, 0x7f.1).
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            return False
    return len(host) <= 253 and all(c.isalnum() or c in "-._" for c in host) and ".." not in host
