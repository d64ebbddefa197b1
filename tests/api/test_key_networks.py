"""Keys that are good from some networks alone, on the edge and on aiohttp, also behind a proxy."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from engine.api.app import create_admin_app
from engine.api.client_address import TrustedProxies
from engine.api.server import Server
from engine.organisations import NewOrganisation
from engine.stores.postgres.directory import Directory
from supervisor import cli
from tests.api.world import ADMIN_KEY, DRAFT, Api, services_with, serving

ELSEWHERE = ["192.0.2.0/24", "2001:db8::/32"]
HERE = "127.0.0.0/8"


@pytest.fixture(scope="module")
async def behind(directory: Directory, acme: NewOrganisation, edge: bool) -> AsyncIterator[Api]:
    """An API that trusts a proxy on this machine, and one in 10.0.0.0/8."""
    proxies = TrustedProxies([HERE, "10.0.0.0/8"])
    async with serving(await services_with(directory, trusted_proxies=proxies), acme.api_key) as running:
        yield running


async def made(api: Api, organisation: NewOrganisation, networks: list[str]) -> dict[str, Any]:
    wish = {"networks": networks}
    status, key = await api.admin("POST", f"/organisations/{organisation.id}/keys", wish)
    assert status == 201, key
    return dict(key)


async def sent(api: Api, key: str, **headers: str) -> tuple[int, Any]:
    status, _, reply = await api.ask("POST", "/v1/messages", DRAFT, key=key, **headers)
    return status, reply


async def test_a_call_from_elsewhere_is_403_and_the_sentence_names_the_address(
    api: Api, acme: NewOrganisation
) -> None:
    """A key that is looked up, and one that is remembered; a call that sends, and one that looks."""
    away, here = await made(api, acme, ELSEWHERE), await made(api, acme, [*ELSEWHERE, HERE])
    for _ in range(2):
        assert (await sent(api, here["api_key"]))[0] == 202
        looks = await api.ask("GET", "/v1/balance", key=away["api_key"])
        for status, problem in (await sent(api, away["api_key"]), (looks[0], looks[2])):
            assert (status, problem["code"], problem["field"]) == (
                403,
                "network_not_allowed",
                "Authorization",
            )
            assert problem["detail"] == "This key is not good for calls from the address 127.0.0.1."
    # Who is no trusted proxy is not believed.
    assert (await sent(api, away["api_key"], X_Forwarded_For="192.0.2.1"))[0] == 403
    assert (await sent(api, away["api_key"][:-2] + "__"))[0] == 401


async def test_networks_are_listed_kept_by_a_rotation_and_changed_within_about_a_second(
    api: Api, acme: NewOrganisation
) -> None:
    old = await made(api, acme, ["192.0.2.7", "192.0.2.7/32", "2001:DB8:0::/32"])
    path = f"/organisations/{acme.id}/keys"
    _, new = await api.admin("POST", f"{path}/{old['id']}/rotate")
    _, listed = await api.admin("GET", path)
    rows = {row["id"]: row["networks"] for row in listed["keys"]}
    assert rows[old["id"]] == rows[new["id"]] == ["192.0.2.7/32", "2001:db8::/32"]
    key = new["api_key"]
    assert (await sent(api, key))[0] == 403
    status, changed = await api.admin("PATCH", f"{path}/{new['id']}", {"networks": [HERE]})
    assert (status, changed["networks"]) == (200, [HERE])
    while (await sent(api, key))[0] != 202:
        pass
    assert (await api.admin("PATCH", f"{path}/{new['id']}", {"networks": ELSEWHERE}))[0] == 200
    while (await sent(api, key))[0] != 403:
        pass
    _, changes = await api.admin("GET", f"/changes?organisation={acme.id}&limit=1")
    assert changes["changes"][0]["before"]["networks"] == [HERE]
    assert changes["changes"][0]["after"]["networks"] == ELSEWHERE
    assert (await api.admin("DELETE", f"{path}/{new['id']}"))[0] == 204
    status, problem = await api.admin("PATCH", f"{path}/{new['id']}", {"networks": []})
    assert (status, problem["code"]) == (409, "key_over")
    for wrong in (["10.0.0.1/8"], "10.0.0.0/8", [HERE] * 101):
        status, problem = await api.admin("PATCH", f"{path}/{old['id']}", {"networks": wrong})
        assert (status, problem["field"]) == (422, "networks"), problem
    assert (await api.admin("PATCH", f"{path}/999999", {"networks": []}))[0] == 404


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ({}, "127.0.0.1"),
        ({"X-Forwarded-For": "192.0.2.9"}, "192.0.2.9"),
        ({"X-Forwarded-For": "192.0.2.9, 198.51.100.7, 10.0.0.9"}, "198.51.100.7"),
        ({"X-Forwarded-For": "192.0.2.9, x"}, "127.0.0.1"),
        ({"Forwarded": 'for="[2001:db8::9]:443";proto=https'}, "2001:db8::9"),
        ({"Forwarded": 'for=192.0.2.9;x=", for=198.51.100.7'}, "127.0.0.1"),
        ({"Forwarded": "for=192.0.2.9", "X-Forwarded-For": "198.51.100.7"}, "127.0.0.1"),
    ],
)
async def test_a_trusted_proxy_names_the_client(
    behind: Api, acme: NewOrganisation, headers: dict[str, str], address: str
) -> None:
    """The same address counts for the key of an organisation, an admin key, and the record of a change."""
    allowed = address in ("192.0.2.9", "2001:db8::9")
    key = (await made(behind, acme, ELSEWHERE))["api_key"]
    for _ in range(2):
        status, problem = await sent(behind, key, **headers)
        assert status == (202 if allowed else 403)
        assert allowed or f"from the address {address}." in problem["detail"]
    wish = {"name": f"from {json.dumps(headers)}", "scopes": ["all"], "networks": ELSEWHERE}
    _, admin = await behind.admin("POST", "/admin-keys", wish)
    _, _, problem = await behind.ask(
        "DELETE", f"/v1/admin/admin-keys/{admin['id']}", key=admin["admin_key"], **headers
    )
    assert allowed or f"from the address {address}." in problem["detail"]
    await behind.admin("DELETE", f"/admin-keys/{admin['id']}", **headers)
    _, changes = await behind.admin("GET", "/changes?path=/v1/admin/admin-keys/&limit=1")
    assert changes["changes"][0]["address"] == address


async def test_a_body_that_comes_in_pieces_is_judged_by_the_same_address(
    behind: Api, acme: NewOrganisation
) -> None:
    key = (await made(behind, acme, ELSEWHERE))["api_key"]
    body = json.dumps(DRAFT).encode()
    for client, status in ((b"192.0.2.9", b"202"), (b"198.51.100.7", b"403")):
        reader, writer = await asyncio.open_connection("127.0.0.1", behind.port)
        writer.write(
            b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: %b\r\nAuthorization: Bearer %b\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n" % (client, key.encode(), len(body))
        )
        await writer.drain()
        writer.write(body)
        assert (await reader.read()).split(b" ")[1] == status
        writer.close()


async def test_a_unix_socket_is_loopback_and_a_proxy_there_names_the_client(
    directory: Directory, tmp_path: Path
) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "admin"))
    services = await services_with(directory, trusted_proxies=TrustedProxies([HERE]))
    assert services.admin is not None
    book = services.admin.admin_keys
    name = f"unix {os.urandom(4).hex()}"
    key = (await book.create(name, ["all"], None, None, [HERE])).admin_key
    server = Server(create_admin_app(services.admin), listener)
    await server.start()
    connector = aiohttp.UnixConnector(str(tmp_path / "admin"))
    async with aiohttp.ClientSession(connector=connector) as session:
        for forwarded, status in (({}, 204), ({"Forwarded": "for=192.0.2.9"}, 403)):
            headers = {"Authorization": f"Bearer {key}", **forwarded}
            made_one = await book.create(f"{name} {status}", ["read"], None)
            url = f"http://x/v1/admin/admin-keys/{made_one.id}"
            async with session.delete(url, headers=headers) as answer:
                assert answer.status == status
    await server.stop(5)


async def test_the_commands_set_show_and_change_the_networks(
    api: Api, acme: NewOrganisation, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run(*arguments: object, code: int = 0) -> str:
        words = [*map(str, arguments), "--url", f"http://127.0.0.1:{api.port}", "--admin-key", ADMIN_KEY]
        assert await asyncio.to_thread(cli.run, words) == code
        shown = capsys.readouterr()
        return shown.err if code else shown.out

    made_key = json.loads(await run("org", "key", acme.id, "--network", "192.0.2.0/24", "--json"))
    assert (await sent(api, made_key["api_key"]))[0] == 403
    assert "192.0.2.0/24" in await run("org", "keys", acme.id, "--json")
    change = ("org", "key", acme.id, "--change", made_key["id"])
    assert "networks  127.0.0.1\n" in await run(*change, "--network", "127.0.0.1")
    assert "everywhere" in await run(*change, "--anywhere")
    assert "Either --network or --anywhere" in await run(*change, code=2)
    assert "--network must be" in await run(*change, "--network", "10.0.0.1/8", code=2)
    name = f"cli {made_key['id']}"
    await run("admin-key", "create", name, "--scope", "read", "--network", "192.0.2.0/24")
    assert "192.0.2.0/24" in await run("admin-key", "list", "--json")
    assert "127.0.0.0/8" in await run("admin-key", "networks", name, "--network", HERE)
