"""`/metrics` is for whoever has the admin key, or the key that is good for metrics alone."""

from __future__ import annotations

import pytest

from engine import api_keys
from engine.organisations import NewOrganisation
from engine.stores.postgres.directory import Directory
from tests.api.world import ADMIN_KEY, Api, services_with, serving

METRICS_KEY = "only-for-metrics"


async def asked(api: Api, path: str, key: str) -> tuple[int, str]:
    """Status and body; the address of the caller is of this machine."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    headers["Accept"] = "this/one"
    async with api.session.get(f"http://127.0.0.1:{api.port}{path}", headers=headers) as response:
        return response.status, await response.text()


async def test_the_two_keys_open_it_and_no_other_also_from_this_machine(
    directory: Directory, acme: NewOrganisation
) -> None:
    services = await services_with(directory, metrics_key_sha256=api_keys.digest(METRICS_KEY))
    async with serving(services, acme.api_key) as api:
        for key in (ADMIN_KEY, METRICS_KEY):
            assert await asked(api, "/metrics", key) == (200, "# accept this/one")
        for key in ("", "wrong", acme.api_key, METRICS_KEY[:-1]):
            assert (await asked(api, "/metrics", key))[0] == 401
        # It opens nothing else.
        assert (await asked(api, "/v1/admin/status", METRICS_KEY))[0] == 401


@pytest.mark.parametrize("key", ["", "wrong", "none"])
async def test_without_a_metrics_key_no_token_is_it(api: Api, key: str) -> None:
    assert (await asked(api, "/metrics", key))[0] == 401


async def test_answers_are_counted_by_status_and_problem(directory: Directory, acme: NewOrganisation) -> None:
    services = await services_with(directory)
    async with serving(services, acme.api_key) as api:
        await api.ask("GET", "/healthz")
        await api.ask("GET", "/nowhere")
        await api.ask("PUT", "/healthz")
        await api.ask("GET", "/v1/balance", key="wrong")
        await api.ask("GET", "/v1/balance", key="wrong")
    assert services.counts.statuses == {("200",): 1, ("404",): 1, ("405",): 1, ("401",): 2}
    assert services.counts.codes == {
        ("not_found",): 1,
        ("method_not_allowed",): 1,
        ("unauthorised",): 2,
    }
