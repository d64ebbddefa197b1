"""Where a provider's HTTP API is: its base URL taken apart, and how TLS to it is checked."""

from __future__ import annotations

import ssl
from typing import NamedTuple
from urllib.parse import urlsplit

from engine.errors import ConfigError
from engine.hosts.tls import trusting


class Address(NamedTuple):
    """A base URL taken apart."""

    host: str
    port: int
    # Path before that of each request, without the slash at its end.
    path: str
    tls: bool


def parse_address(url: str, setting: str) -> Address:
    """The parts of a base URL. Raises ConfigError naming `setting`."""
    wrong = ConfigError(
        f"{setting} must be http://HOST[:PORT][/PATH], or the same with https, not {url[:200]!r}."
    )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as e:
        raise wrong from e
    extra = parts.query or parts.fragment or parts.username
    # They go into the request line as they are: without blanks, line ends, or anything to escape.
    plain = all("!" <= character <= "~" for character in url)
    if parts.scheme not in ("http", "https") or not parts.hostname or extra or not plain:
        raise wrong
    tls = parts.scheme == "https"
    return Address(parts.hostname, port or (443 if tls else 80), parts.path.rstrip("/"), tls)


def tls_context(address: Address, ca_file: str, setting: str) -> ssl.SSLContext | None:
    """How the server's certificate is checked: against the authorities in `ca_file`, or those of the
    system when it is ""; None without TLS.

    Raises ConfigError naming `setting` when the file cannot be used.
    """
    if not address.tls:
        if ca_file:
            raise ConfigError(f"{setting} is of no use without https in the url: leave it out.")
        return None
    return trusting(ca_file, setting)
