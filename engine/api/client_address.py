"""Rule: from which address a request comes, also through proxies.

The peer of the connection is the client, unless it is a trusted proxy. Then the headers `Forwarded` (RFC
7239) and `X-Forwarded-For` are read from the right: each proxy adds at the end whom it has it from. The first
address that is no trusted proxy is the client. What stands to the left of it is the client's own word.

The peer counts when nothing can be relied on: there is no such header; one cannot be read; the client is not
named by an address (`unknown`, `_hidden`); all addresses are proxies; or both headers are there and disagree,
for a proxy that writes one of them may pass on the other as the client wrote it. `Forwarded` is read from
its beginning, strictly: what a client wrote there can make it unreadable, and never name another address.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Collection, Sequence

from aiohttp import hdrs, web

from engine.errors import Refusal
from engine.networks import Address, Network, address_of, is_within, networks_of

LOOPBACK = "127.0.0.1"
X_FORWARDED_FOR = "X-Forwarded-For"
# One parameter of `Forwarded` and what ends it: name, value, then `;`, `,` or the end.
_PAIR = re.compile(
    r"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)="
    r'([!#$%&\'*+.^_`|~0-9A-Za-z-]+|"(?:[\t !#-\[\]-~]|\\[\t -~])*")[ \t]*(;|,|\Z)'
)
_EMPTY = re.compile(r"[ \t]*([;,]|\Z)")
_QUOTED = re.compile(r"\\(.)")
_V4_PORT = re.compile(r"([0-9.]+)(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?")
_V6_PORT = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?")


class TrustedProxies:
    """The proxies whose word counts."""

    def __init__(self, networks: Collection[str] = ()) -> None:
        """`networks`: as `networks.networks_of` reads them. Raises ValueError."""
        found = networks_of(networks)
        if found is None:
            raise ValueError("no networks")
        self._networks = found

    def client(self, peer: str, forwarded: Sequence[str], x_forwarded_for: Sequence[str]) -> str:
        """The address of the client, in its shortest form; "" when nobody knows it.

        `peer`: the address at the other end of the connection. The others: the values of the headers
        `Forwarded` and `X-Forwarded-For`, in their order.
        """
        # The zone of a link-local address says which interface of ours it came in by.
        address = address_of(peer.partition("%")[0])
        if address is None:
            return ""
        if self._networks and (forwarded or x_forwarded_for) and is_within(address, self._networks):
            address = self._named(forwarded, x_forwarded_for) or address
        return str(address)

    def address(self, request: web.Request) -> str:
        """The same of a request; that of a Unix socket is `LOOPBACK`, unless the proxy there is trusted."""
        peer = LOOPBACK if is_unix(request) else request.remote or ""
        headers = request.headers
        return self.client(peer, headers.getall(hdrs.FORWARDED, ()), headers.getall(X_FORWARDED_FOR, ()))

    def _named(self, forwarded: Sequence[str], x_forwarded_for: Sequence[str]) -> Address | None:
        named = []
        if forwarded:
            named.append(self._client_of(_forwarded_nodes(", ".join(forwarded))))
        if x_forwarded_for:
            nodes = [node.strip(" \t") for node in ",".join(x_forwarded_for).split(",")]
            named.append(self._client_of([node for node in nodes if node]))
        return named[0] if all(one == named[0] for one in named) else None

    def _client_of(self, nodes: Sequence[str]) -> Address | None:
        """The last of these that is no trusted proxy; None when there is none, or it is no address."""
        for node in reversed(nodes):
            address = _node_address(node)
            if address is None or not is_within(address, self._networks):
                return address
        return None


NO_PROXIES = TrustedProxies()


def is_unix(request: web.Request) -> bool:
    """Whether the request came over a Unix socket."""
    ours = request.get_extra_info("socket")
    return ours is not None and ours.family == socket.AF_UNIX


def check_network(networks: Sequence[Network], address: str) -> None:
    """Raise Refusal 403 for a key that is not good from there. `address`: "" when nobody knows it."""
    found = address_of(address)
    if found is None or not is_within(found, networks):
        detail = f"This key is not good for calls from the address {address or 'of this caller'}."
        raise Refusal("network_not_allowed", 403, detail, "Authorization")


def _forwarded_nodes(value: str) -> list[str]:
    """What the `for` of each element says, "" where it has none or two; empty when the value is malformed."""
    nodes: list[str] = []
    own: list[str] = []
    place, is_element = 0, False
    while place < len(value):
        if pair := _PAIR.match(value, place):
            name, text, ends = pair.groups()
            is_element = True
            if name.lower() == "for":
                own.append(_QUOTED.sub(r"\1", text[1:-1]) if text.startswith('"') else text)
            place = pair.end()
        elif empty := _EMPTY.match(value, place):
            ends, place = empty[1], empty.end()
        else:
            return []
        if ends == "," or place >= len(value):
            if is_element:
                nodes.append(own[0] if len(own) == 1 else "")
            own, is_element = [], False
    return nodes


def _node_address(node: str) -> Address | None:
    """The address of `203.0.113.9`, `2001:db8::9` or `[2001:db8::9]`, the first and last also with a port."""
    found = _V4_PORT.fullmatch(node) or _V6_PORT.fullmatch(node)
    return address_of(found[1] if found else node)
