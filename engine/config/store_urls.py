"""The settings of a store become one URL, which everything else is given."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from engine.errors import ConfigError
from engine.hosts.tls import TLS_FILES, check_files

_TLS_SCHEMES = {
    "redis": ("rediss", "rediss+sentinel"),
    "clickhouse": ("https",),
    "postgres": ("postgresql", "postgres"),
}
_CLUSTER = re.compile(r"[A-Za-z0-9_.-]{1,100}")
# PostgreSQL's own names of the same.
_POSTGRES = {"tls_ca_file": "sslrootcert", "tls_cert_file": "sslcert", "tls_key_file": "sslkey"}


def url_with_tls(store: str, url: str, files: dict[str, str]) -> str:
    """`url` with the files of TLS as parameters. `files`: by setting, all of TLS_FILES, "" for none.

    With a file of authorities, PostgreSQL's certificate and name are checked unless the URL has its own
    `sslmode`. Raises ConfigError, which names the setting.
    """
    given = {setting: files[setting] for setting in TLS_FILES if files[setting]}
    if not given:
        return url
    setting = f"{store}.{next(iter(given))}"
    parts = urlsplit(url)
    if parts.scheme not in _TLS_SCHEMES[store]:
        raise ConfigError(f"{setting} needs a {store}.url that begins with {_TLS_SCHEMES[store][0]}://.")
    check_files(store, files)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if store == "postgres":
        given = {_POSTGRES[name]: file for name, file in given.items()}
        query.setdefault("sslmode", "verify-full" if "sslrootcert" in given else "require")
    return urlunsplit(parts._replace(query=urlencode(query | given)))


def url_with_cluster(url: str, cluster: str) -> str:
    """`url` of ClickHouse with the cluster, "" for none, as a parameter. Raises ConfigError."""
    if not cluster:
        return url
    if not url or _CLUSTER.fullmatch(cluster) is None:
        raise ConfigError("clickhouse.cluster must be the name of a cluster of the server in clickhouse.url.")
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    return urlunsplit(parts._replace(query=urlencode(query | {"cluster": cluster})))


def url_with_password(store: str, url: str, password: str) -> str:
    """`url` with the password of its user; for Redis also without a user. Raises ConfigError."""
    setting = f"{store}.password_file"
    parts = urlsplit(url)
    if not parts.netloc:
        raise ConfigError(f"{setting} needs a {store}.url with a host.")
    login, _, hosts = parts.netloc.rpartition("@")
    user, colon, _ = login.partition(":")
    if colon:
        raise ConfigError(f"{setting} must be left out, or {store}.url be without a password.")
    if not user and store != "redis":
        raise ConfigError(f"{setting} needs a {store}.url with a user.")
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{hosts}"))
