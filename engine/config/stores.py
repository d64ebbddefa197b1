"""The settings of the stores."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from engine.config.store_urls import url_with_cluster, url_with_password, url_with_tls
from engine.providers.secret import secret

# Most servers that rows are divided over; as many as `engine.stores.clickhouse.divided._divide` can.
DIVISIONS_MAX = 64


class Store(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[redis]`, `[postgres]`, `[clickhouse]`: where a store is."""

    # "" means: start an embedded server under the data directory.
    url: str = ""
    # A file whose first line is the password for `url`; "" when it stands there, or none is needed.
    password_file: str = ""
    # Files in PEM form, for a store with TLS (`rediss://`, `https://`, any URL of PostgreSQL): the
    # authorities that its certificate is checked against, "" for those of the system; a certificate to
    # show to it; and the key of that, "" when it stands in the same file. Reading the file puts them
    # into `url`.
    tls_ca_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""


class ClickHouse(Store, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[clickhouse]`: where ClickHouse is, and whether it is a cluster or several."""

    # In place of `url`: several servers, each with the rows of some organisations (docs/operations.md).
    # Reading the file puts them into `url`, with spaces between them.
    urls: Annotated[list[str], Meta(max_length=DIVISIONS_MAX)] = []
    # The cluster on all of whose servers the tables are (docs/operations.md); "": it is one server.
    cluster: str = ""


class Redis(Store, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[redis]`: where Redis is, and when a message counts as accepted."""

    # On how many machines a message must be before it is answered 202: 1, the master alone; 2, the
    # master and a replica. While fewer have it, messages get 503.
    accepted_on: Annotated[int, Meta(ge=1, le=5)] = 1


def with_whole_url(name: str, store: Store) -> Store:
    """`store`, all of it in its URL; `name` is its section. Raises ConfigError."""
    if isinstance(store, ClickHouse) and store.urls:
        each = [with_whole_url(name, msgspec.structs.replace(store, url=url, urls=[])) for url in store.urls]
        return msgspec.structs.replace(each[0], url=" ".join(one.url for one in each))
    files = {
        "tls_ca_file": store.tls_ca_file,
        "tls_cert_file": store.tls_cert_file,
        "tls_key_file": store.tls_key_file,
    }
    url = url_with_tls(name, store.url, files)
    if isinstance(store, ClickHouse):
        url = url_with_cluster(url, store.cluster)
    if store.password_file:
        url = url_with_password(name, url, secret("", store.password_file, f"{name}.password"))
    return msgspec.structs.replace(store, url=url, password_file="", **dict.fromkeys(files, ""))
