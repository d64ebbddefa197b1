"""What operators are answered about an organisation that there is not, or that sent nothing."""

from __future__ import annotations

import pytest

from tests.api.world import ADMIN_KEY, Api

# Of the organisation 999,999.
CALLS = (
    "/v1/admin/organisations/999999/messages",
    "/v1/admin/organisations/999999/reports/messages",
    "/v1/admin/reports/summary?organisation=999999",
    "/v1/admin/inbound-messages?organisation=999999",
)


@pytest.mark.parametrize("path", CALLS)
async def test_a_wrong_id_does_not_look_as_an_organisation_that_sent_nothing(api: Api, path: str) -> None:
    status, _, reply = await api.ask("GET", path, key=ADMIN_KEY)
    assert (status, reply["code"]) == (404, "not_found")
    assert reply["detail"] == "There is no organisation with this id."
