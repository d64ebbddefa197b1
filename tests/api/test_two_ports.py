"""The admin calls have an address of their own, and the public port has them only when it is told to."""

from __future__ import annotations

from dataclasses import replace

from engine.stores.postgres.directory import Directory
from tests.api.world import ADMIN_KEY, Api, services_with, serving

OURS = ("/v1/admin/status", "/v1/admin", "/v1/admin/nothing", "/v1/admin/a%0Ab", "/metrics")


async def test_the_public_port_says_that_the_admin_calls_are_elsewhere(directory: Directory) -> None:
    services = replace(await services_with(directory), admin=None)
    async with serving(services) as api:
        for path in OURS:
            for method in ("GET", "POST", "DELETE"):
                status, _, problem = await api.ask(method, path, key=ADMIN_KEY)
                assert (status, problem["code"]) == (404, "not_found")
                assert "`[admin] listen`" in problem["detail"]
        assert (await api.ask("GET", "/v1/administrators"))[2]["detail"] == "There is nothing at this path."
        assert (await api.ask("GET", "/healthz"))[0] == 200


async def test_it_has_them_when_the_configuration_says_so(api: Api) -> None:
    assert (await api.admin("GET", "/status"))[0] == 200
    answer = await api.raw(
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Authorization: Bearer " + ADMIN_KEY.encode() + b"\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 200 OK")
