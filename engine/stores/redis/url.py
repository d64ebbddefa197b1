"""The URL of Redis: address and credentials.

redis://[[user]:password@]host:port[/db]                       one server
rediss://…                                                     the same with TLS
unix:///path[?user=…&password=…&db=…]                          one server, by its socket
redis+sentinel://[user:password@]host:port,host:port/master[/db][?sentinel_user=…&sentinel_password=…]
                                                               the master that these sentinels name
rediss+sentinel://…                                            the same with TLS, to the sentinels too
"""

from __future__ import annotations

import ssl
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

import msgspec

from engine.errors import ConfigError
from engine.hosts.tls import TLS_FILES, client_context
from engine.written_numbers import is_whole


class RedisUrl(msgspec.Struct, frozen=True, kw_only=True):
    """One server's address and credentials."""

    # The URL without credentials, for error messages.
    shown: str
    host: str = ""
    port: int = 6379
    # Path of a Unix socket; "" for a server at `host` and `port`.
    path: str = ""
    tls: bool = False
    # As `engine.hosts.tls.client_context` takes them.
    tls_files: tuple[str, str, str] = ("", "", "")
    user: str = ""
    password: str = ""
    database: int = 0
    # (host, port) of each sentinel, and the name under which they know the server; () and "" without.
    sentinels: tuple[tuple[str, int], ...] = ()
    master: str = ""
    # What the sentinels ask for; "" when they ask for nothing.
    sentinel_user: str = ""
    sentinel_password: str = ""

    def at(self, host: str, port: int) -> RedisUrl:
        """The same server, which is at this address now."""
        return msgspec.structs.replace(self, host=host, port=port)

    def sentinel(self, host: str, port: int) -> RedisUrl:
        """One of its sentinels."""
        return RedisUrl(
            shown=f"{host}:{port}", host=host, port=port, tls=self.tls, tls_files=self.tls_files,
            user=self.sentinel_user, password=self.sentinel_password,
        )  # fmt: skip

    def handshake(self, name: str) -> list[tuple[bytes | str | int, ...]]:
        """The commands that open a connection; `name` is shown by CLIENT LIST.

        PING is the last one, so that a server that is still loading its data says so now.
        """
        commands = self.authentication()
        if self.database:
            commands.append(("SELECT", self.database))
        # Redis allows no spaces in the name.
        commands.append(("CLIENT", "SETNAME", name.replace(" ", "-")))
        commands.append(("PING",))
        return commands

    def authentication(self) -> list[tuple[bytes | str | int, ...]]:
        """The command that shows the password; none when there is no password."""
        if not self.password:
            return []
        return [("AUTH", self.user, self.password) if self.user else ("AUTH", self.password)]

    def tls_context(self) -> ssl.SSLContext | None:
        """The settings of TLS, with the present content of the files; None without TLS. Raises OSError."""
        return client_context(*self.tls_files) if self.tls else None


def parse_url(url: str) -> RedisUrl:
    """Read a URL in one of the forms above. Raises ConfigError; its text never holds the password."""
    if url.partition("://")[0] in ("redis+sentinel", "rediss+sentinel"):
        return _sentinel_url(url)
    try:
        parts = urlsplit(url)
        port = parts.port
        query = {
            key: values[-1] for key, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()
        }
    except ValueError as e:
        raise ConfigError("The Redis URL cannot be read: its port or its query is malformed.") from e
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ConfigError(
            "The Redis URL must begin with redis://, rediss://, unix://, redis+sentinel:// or rediss+sentinel://."
        )
    unix = parts.scheme == "unix"
    if unrecognised := query.keys() - (
        {"user", "username", "password", "db"} if unix else {"db", *TLS_FILES}
    ):
        raise ConfigError(f"The Redis URL has an unknown parameter: {', '.join(sorted(unrecognised))}.")
    database = query.get("db") or ("" if unix else parts.path.strip("/")) or "0"
    if not is_whole(database):
        raise ConfigError("The Redis URL's database must be a number from 0, as in redis://host:6379/0.")
    if unix:
        if not parts.path:
            raise ConfigError("The Redis URL must name a socket, as in unix:///run/redis.sock.")
        return RedisUrl(
            shown=f"unix://{parts.path}",
            path=unquote(parts.path),
            user=query.get("user") or query.get("username") or unquote(parts.username or ""),
            password=query.get("password") or unquote(parts.password or ""),
            database=int(database),
        )
    host = parts.hostname or "localhost"
    port = 6379 if port is None else port
    return RedisUrl(
        shown=f"{parts.scheme}://{host}:{port}",
        host=host,
        port=port,
        tls=parts.scheme == "rediss",
        tls_files=_tls_files(query),
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=int(database),
    )


def _sentinel_url(url: str) -> RedisUrl:
    form = "redis+sentinel://HOST:PORT,HOST:PORT/MASTER-NAME/DB"
    try:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    except ValueError as e:
        raise ConfigError("The Redis URL cannot be read: its hosts or its query are malformed.") from e
    if unrecognised := query.keys() - {"sentinel_user", "sentinel_password", *TLS_FILES}:
        raise ConfigError(f"The Redis URL has an unknown parameter: {', '.join(sorted(unrecognised))}.")
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    master, _, database = parts.path.strip("/").partition("/")
    sentinels = tuple(_address(host) for host in hosts.split(","))
    if not master or not all(sentinels):
        raise ConfigError(f"The Redis URL must name the sentinels and their master, as in {form}.")
    if not is_whole(database or "0"):
        raise ConfigError(f"The Redis URL's database must be a number from 0, as in {form}.")
    return RedisUrl(
        shown=f"{parts.scheme}://{hosts}/{master}",
        tls=parts.scheme == "rediss+sentinel",
        tls_files=_tls_files(query),
        user=unquote(user),
        password=unquote(password),
        database=int(database or "0"),
        sentinels=tuple(address for address in sentinels if address),
        master=unquote(master),
        sentinel_user=query.get("sentinel_user", ""),
        sentinel_password=query.get("sentinel_password", ""),
    )


def _address(text: str) -> tuple[str, int] | None:
    """("10.0.0.1", 26379) from "10.0.0.1:26379"; 26379 when it has no port, None when it is no address."""
    try:
        parts = urlsplit(f"//{text}")
        return (parts.hostname, parts.port or 26379) if parts.hostname else None
    except ValueError:
        return None


def _tls_files(query: dict[str, str]) -> tuple[str, str, str]:
    ca_file, cert_file, key_file = (query.get(name, "") for name in TLS_FILES)
    return ca_file, cert_file, key_file
