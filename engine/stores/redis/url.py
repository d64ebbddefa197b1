"""The URL of Redis: address and credentials, in the forms that redis-py also takes."""

from __future__ import annotations

import ssl
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from engine.errors import ConfigError
from engine.tls import TLS_FILES, client_context


class RedisUrl(msgspec.Struct, frozen=True, kw_only=True):
    """One server's address and credentials."""

    # The URL without credentials, for error messages.
    shown: str
    host: str = ""
    port: int = 6379
    # Path of a Unix socket; "" for a server at `host` and `port`.
    path: str = ""
    tls: bool = False
    # As `engine.tls.client_context` takes them.
    tls_files: tuple[str, str, str] = ("", "", "")
    user: str = ""
    password: str = ""
    database: int = 0

    def handshake(self, name: str) -> list[tuple[bytes | str | int, ...]]:
        """The commands that open a connection; `name` is shown by CLIENT LIST.

        PING is the last one, so that a server that is still loading its data says so now.
        """
        commands: list[tuple[bytes | str | int, ...]] = []
        if self.password:
            commands.append(("AUTH", self.user, self.password) if self.user else ("AUTH", self.password))
        if self.database:
            commands.append(("SELECT", self.database))
        # Redis allows no spaces in the name.
        commands.append(("CLIENT", "SETNAME", name.replace(" ", "-")))
        commands.append(("PING",))
        return commands

    def tls_context(self) -> ssl.SSLContext | None:
        """The settings of TLS, with the present content of the files; None without TLS. Raises OSError."""
        return client_context(*self.tls_files) if self.tls else None


def parse_url(url: str) -> RedisUrl:
    """Read a redis://, rediss:// or unix:// URL. Raises ConfigError; its text never holds the password."""
    try:
        parts = urlsplit(url)
        port = parts.port
        query = {
            key: values[-1] for key, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()
        }
    except ValueError as e:
        raise ConfigError("The Redis URL cannot be read: its port or its query is malformed.") from e
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ConfigError("The Redis URL must begin with redis://, rediss:// or unix://.")
    unix = parts.scheme == "unix"
    if unrecognised := query.keys() - (
        {"user", "username", "password", "db"} if unix else {"db", *TLS_FILES}
    ):
        raise ConfigError(f"The Redis URL has an unknown parameter: {', '.join(sorted(unrecognised))}.")
    database = query.get("db") or ("" if unix else parts.path.strip("/")) or "0"
    if not database.isdecimal():
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
        tls_files=(
            query.get("tls_ca_file", ""),
            query.get("tls_cert_file", ""),
            query.get("tls_key_file", ""),
        ),
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=int(database),
    )
