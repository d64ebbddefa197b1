"""The calls that say from which networks a key may be used."""

from __future__ import annotations

import msgspec
from aiohttp import web

from engine.admin_keys import AdminKey
from engine.api.admin import organisation_id_of
from engine.api.decoding import Shape, checked_networks, read_body
from engine.api.description import described
from engine.api.paging import NUMBER
from engine.api.parameters import ADMIN_KEY, API_KEY
from engine.api.ports import AdminServices
from engine.api.problems import not_found
from engine.api.response import Response, answer_of
from engine.networks import NETWORKS_MAX
from engine.organisations import ApiKey

# What a list of networks may be, in words and as JSON Schema.
NETWORKS_WORDS = "an array of networks, such as 203.0.113.0/24; empty for everywhere"
NETWORKS = {"maxItems": NETWORKS_MAX}


class _Change(msgspec.Struct, forbid_unknown_fields=True):
    networks: list[str]


NETWORKS_CHANGE = Shape(_Change, "a change of a key", {"networks": NETWORKS_WORDS})
EXAMPLES = {"an office": {"networks": ["203.0.113.0/24", "2001:db8::/32"]}, "everywhere": {"networks": []}}


class KeyNetworks:
    """The actions that change keys. A change is in force everywhere within about a second."""

    def __init__(self, services: AdminServices) -> None:
        self._keys = services.api_keys
        self._admin_keys = services.admin_keys
        self._body_bytes_max = services.body_bytes_max

    @described(
        "change_api_key",
        "Set the networks that an API key may be used from.",
        path=API_KEY,
        body=NETWORKS_CHANGE,
        limits={"networks": NETWORKS},
        examples=EXAMPLES,
        answers={200: ApiKey},
        codes=("key_over",),
    )
    async def change(self, request: web.Request) -> Response:
        """`PATCH /organisations/{id}/keys/{key_id}`: 200 with the key. Safe to repeat.

        Raises Refusal 400, 404, 409, 413, 422, Unavailable.
        """
        networks = await networks_of(request, self._body_bytes_max)
        organisation_id, key_id = organisation_id_of(request), key_id_of(request)
        return answer_of(200, await self._keys.set_networks(organisation_id, key_id, networks))

    @described(
        "change_admin_key",
        "Set the networks that an admin key may be used from.",
        path=ADMIN_KEY,
        body=NETWORKS_CHANGE,
        limits={"networks": NETWORKS},
        examples=EXAMPLES,
        answers={200: AdminKey},
        codes=("key_over",),
    )
    async def change_admin(self, request: web.Request) -> Response:
        """`PATCH /admin-keys/{key_id}`: as `change`."""
        networks = await networks_of(request, self._body_bytes_max)
        return answer_of(200, await self._admin_keys.set_networks(key_id_of(request), networks))


async def networks_of(request: web.Request, body_bytes_max: int) -> tuple[str, ...]:
    """The networks in the body. Raises Refusal 400, 413, 422."""
    return checked_networks(NETWORKS_CHANGE.decode(await read_body(request, body_bytes_max)).networks)


def key_id_of(request: web.Request) -> int:
    """The id of a key in the path. Raises Refusal 404."""
    digits = request.match_info["key_id"]
    if not NUMBER.fullmatch(digits):
        raise not_found("There is no key with this id.")
    return int(digits)
