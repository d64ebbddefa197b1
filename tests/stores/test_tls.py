"""A private authority and a client's certificate, for each store: by settings, over real TLS."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from engine.config import decode
from engine.errors import ConfigError, EngineError
from engine.stores.clickhouse import client as clickhouse
from engine.stores.postgres.connection import connect
from engine.stores.postgres.errors import translated
from engine.stores.redis.link import RedisLink
from supervisor.embedded.servers import Server
from tests.adversity.tls import Files, make_files, tls_before


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_files(tmp_path_factory.mktemp("tls"))


async def ping(store: str, url: str) -> None:
    """Raises EngineError when the store does not answer."""
    if store == "redis":
        link = RedisLink(url, timeout_s=5, name="test")
        try:
            assert await link.call("PING") == b"PONG"
        finally:
            await link.close()
    elif store == "postgres":
        with translated(in_full=True):
            connection = await connect(url, timeout_s=5)
        await connection.close()
    else:
        place = clickhouse.parse_url(url)
        client = await clickhouse.connect(place, database=place.database, timeout_s=10)
        assert (await client.query("SELECT 1")).result_rows == [(1,)]
        await client.close()


def settings(store: str, server: Server, port: int, **files: str) -> str:
    """`[store]` of a configuration that leads to `port` with TLS; the URL that it becomes."""
    parts = urlsplit(server.url)
    scheme = {"redis": "rediss", "clickhouse": "https"}.get(store, parts.scheme)
    user = parts.netloc.rpartition("@")[0]
    url = parts._replace(scheme=scheme, netloc=f"{user}@127.0.0.1:{port}").geturl()
    lines = [f"[{store}]", f'url = "{url}"', *(f'{name} = "{file}"' for name, file in files.items())]
    return str(getattr(decode("\n".join(lines), "test"), store).url)


STORES = ["redis", "postgres", "clickhouse"]


@pytest.mark.parametrize("store", STORES)
async def test_a_private_authority_is_trusted_when_its_file_is_named(
    store: str, servers: dict[str, Server], files: Files
) -> None:
    place = urlsplit(servers[store].url)
    async with tls_before(place.hostname or "", place.port or 0, files, postgres=store == "postgres") as port:
        await ping(store, settings(store, servers[store], port, tls_ca_file=files.ca))
        plain = settings(store, servers[store], port)
        with pytest.raises(EngineError, match="certificate"):
            await ping(store, plain + "?sslmode=verify-full" if store == "postgres" else plain)
        # Another authority: a certificate that signs itself, but not this server.
        with pytest.raises(EngineError, match="certificate"):
            await ping(store, settings(store, servers[store], port, tls_ca_file=files.client))


@pytest.mark.parametrize("store", STORES)
async def test_a_server_that_wants_a_certificate_of_its_client_is_shown_it(
    store: str, servers: dict[str, Server], files: Files
) -> None:
    place = urlsplit(servers[store].url)
    async with tls_before(
        place.hostname or "", place.port or 0, files, postgres=store == "postgres", client_needed=True
    ) as port:
        url = settings(
            store, servers[store], port, tls_ca_file=files.ca, tls_cert_file=files.client,
            tls_key_file=files.client_key,
        )  # fmt: skip
        await ping(store, url)
        with pytest.raises(EngineError):
            await ping(store, settings(store, servers[store], port, tls_ca_file=files.ca))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[redis]\nurl = "redis://h"\ntls_ca_file = "/x"', "redis.tls_ca_file needs a redis.url that begins"),
        ('[redis]\ntls_ca_file = "/x"', "redis.tls_ca_file needs a redis.url that begins with rediss://"),
        ('[clickhouse]\nurl = "http://h"\ntls_ca_file = "/x"', "begins with https://"),
        ('[redis]\nurl = "rediss://h"\ntls_ca_file = "/no/such"', "redis.tls_ca_file: /no/such cannot be"),
        ('[postgres]\nurl = "postgres://h"\ntls_key_file = "/k"', "tls_key_file is of no use without"),
        (f'[redis]\nurl = "rediss://h"\ntls_ca_file = "{Path(__file__)}"', "in PEM form"),
        (f'[redis]\nurl = "rediss://h"\ntls_cert_file = "{Path(__file__)}"', "tls_cert_file: .*in PEM form"),
    ],
)  # fmt: skip
def test_a_setting_of_tls_that_cannot_work_is_named(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        decode(text, "test")


def test_postgres_checks_name_and_certificate_unless_its_url_says_otherwise(files: Files) -> None:
    text = '[postgres]\nurl = "postgres://h/db{}"\ntls_ca_file = "{}"'
    assert "sslmode=verify-full&sslrootcert=" in decode(text.format("", files.ca), "test").postgres.url
    kept = decode(text.format("?sslmode=verify-ca", files.ca), "test").postgres.url
    assert "sslmode=verify-ca&sslrootcert=" in kept
