"""Who is calling: an organisation by one of its API keys, or an operator by an admin key.

`engine.api.key_cache` says how long keys are remembered, and what holds while PostgreSQL is away.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Any, Protocol

from aiohttp import web

from engine import api_keys
from engine.admin_keys import AdminCredential
from engine.api.client_address import NO_PROXIES, TrustedProxies, check_network
from engine.api.guard import LET_IN, check_query
from engine.api.key_cache import API_KEY_WANTED, KeyCache, Presented, PresentedBefore, unauthorised
from engine.api.key_ports import AdminKeyBook
from engine.api.ports import Directory
from engine.errors import Refusal
from engine.organisations import ApiScope, Credential

# Who has the key of the configuration, as the records of changes name it.
CONFIGURED = AdminCredential(key_id=None, name="configuration", scopes=("all",), secret_sha256=b"")
_ADMIN_KEY_WANTED = "an admin key that is not revoked or expired"
# As the id of a key: that of the configuration.
CONFIGURED_ID = 0
# The key of a request that brings it in another way; what its header Authorization says does not count then.
PRESENTED = web.RequestKey("presented", Presented)


class Source(Protocol):
    """Where a request comes from."""

    def address(self, proxies: TrustedProxies) -> str:
        """Its address, as `TrustedProxies.client` finds it; "" when nobody knows it."""


class Keys:
    """API keys, and the organisation that each of them speaks for. One per process, on its loop."""

    def __init__(self, directory: Directory, proxies: TrustedProxies = NO_PROXIES, **times: Any) -> None:
        """`proxies`: those that say who their clients are. `times`: as `KeyCache` takes them."""
        self._proxies = proxies
        self.cache: KeyCache[Credential] = KeyCache(directory.credentials, API_KEY_WANTED, **times)

    async def organisation(self, authorization: str | None, request: web.Request) -> int:
        """The organisation whose key `authorization` carries, for one that looks. Of the request only the
        address and the names in its query count. Raises Refusal 401, 403, 422, Unavailable."""
        organisation_id = _reader(await self.credential(authorization, request))
        check_query(request)
        return organisation_id

    async def sender(self, authorization: str | None, request: web.Request) -> int:
        """The same for one that wants to send. Raises Refusal 401, 403, 422, Unavailable."""
        organisation_id = _sender(await self.credential(authorization, request))
        check_query(request)
        return organisation_id

    async def owner(self, authorization: str | None, request: web.Request) -> int:
        """The same for one that takes back what it has sent: also while the organisation is suspended. Raises
        Refusal 401, 403, 422, Unavailable."""
        organisation_id = _owner(await self.credential(authorization, request))
        check_query(request)
        return organisation_id

    async def manager(self, authorization: str | None, request: web.Request, *scopes: ApiScope) -> int:
        """The same for one that looks after the organisation, also while that is suspended: its key has the
        scope `admin`, or all of `scopes` where there are any. Raises Refusal 401, 403, 422, Unavailable."""
        organisation_id = _manager(await self.credential(authorization, request), scopes)
        check_query(request)
        return organisation_id

    def sender_at_once(self, presented: Presented, source: Source) -> int | None:
        """The same for a key that need not be looked up; None for one that must be.

        Raises Refusal 401, 403."""
        credential = self.cache.found_at_once(presented)
        if credential is None:
            return None
        if credential is presented.sends_from_anywhere:
            return credential.organisation_id
        organisation_id = _sender_from(credential, source, self._proxies)
        if not credential.networks:
            presented.sends_from_anywhere = credential
        return organisation_id

    async def looked_up_sender(self, presented: Presented, source: Source) -> int:
        """As `sender`, for a key that has been read before."""
        return _sender_from(await self.cache.found(presented), source, self._proxies)

    async def credential(self, authorization: str | None, request: web.Request) -> Credential:
        """What the key in `authorization`, or the one `PRESENTED` with the request, is good for.

        Raises Refusal 401, 403 from where it is not good, Unavailable."""
        credential = await self.cache.found(request.get(PRESENTED) or _presented(authorization))
        if credential.networks:
            check_network(credential.networks, self._proxies.address(request))
        request[LET_IN] = True
        return credential

    def are_known(self) -> bool:
        """Whether any key would be accepted although PostgreSQL is away."""
        return self.cache.are_known()

    async def close(self) -> None:
        """Give up the lookups under way."""
        await self.cache.close()


class AdminKeys:
    """Admin keys, and what each of them is good for. One per process, on its loop.

    The key of the configuration is good for all, and needs no store.
    """

    def __init__(self, key_sha256: bytes, book: AdminKeyBook) -> None:
        """`key_sha256`: the digest of the key of the configuration; b"": there is none."""
        self._key_sha256 = key_sha256
        self.cache: KeyCache[AdminCredential] = KeyCache(book.credentials, _ADMIN_KEY_WANTED)

    def presented(self, authorization: str | None) -> Presented | None:
        """The key in this value of the header Authorization; None when it has none."""
        # No key at all is never the right one, not even where the key is empty.
        if not (token := api_keys.bearer(authorization or "")):
            return None
        whole = PresentedBefore(CONFIGURED_ID, api_keys.digest(token))
        if self._is_configured(whole):
            return whole
        parsed = api_keys.admin_key(token)
        return Presented(*parsed) if parsed else None

    async def found(self, presented: Presented | None) -> AdminCredential:
        """Whose key this is; None: the caller brings none. Raises Refusal 401, Unavailable."""
        if presented is not None and presented.key_id == CONFIGURED_ID:
            if not self._is_configured(presented):
                raise unauthorised(_ADMIN_KEY_WANTED)
            return CONFIGURED
        return await self.cache.found(presented)

    def _is_configured(self, presented: Presented) -> bool:
        return hmac.compare_digest(presented.digest(), self._key_sha256)


def _reader(credential: Credential) -> int:
    """The organisation of one that wants to look. Raises Refusal 403."""
    if "read" not in credential.scopes and "admin" not in credential.scopes:
        raise _scope_missing("read", credential)
    return credential.organisation_id


def _sender_from(credential: Credential, source: Source, proxies: TrustedProxies) -> int:
    """The organisation of one that wants to send from `source`. Raises Refusal 403."""
    if credential.networks:
        check_network(credential.networks, source.address(proxies))
    return _sender(credential)


def _sender(credential: Credential) -> int:
    """The organisation of one that wants to send. Raises Refusal 403."""
    organisation_id = _owner(credential)
    if credential.suspended:
        raise Refusal(
            "organisation_suspended",
            403,
            "The organisation is suspended: usage of it is not booked yet. Ask the operator of this service.",
        )
    return organisation_id


def _owner(credential: Credential) -> int:
    """The organisation of a key that is good for sending. Raises Refusal 403."""
    if "send" not in credential.scopes:
        raise _scope_missing("send", credential)
    return credential.organisation_id


def _manager(credential: Credential, scopes: Sequence[ApiScope]) -> int:
    """The organisation of a key that is good for changing what is the organisation's. Raises Refusal 403."""
    if "admin" in credential.scopes:
        return credential.organisation_id
    for scope in scopes or ("admin",):
        if scope not in credential.scopes:
            raise _scope_missing(scope, credential)
    return credential.organisation_id


def _scope_missing(scope: ApiScope, credential: Credential) -> Refusal:
    has = " and ".join(f"`{one}`" for one in credential.scopes)
    detail = f"This call needs an API key with the scope `{scope}`; this key has {has}."
    return Refusal("scope_missing", 403, detail, "Authorization")


def _presented(authorization: str | None) -> Presented | None:
    return Presented.by(authorization) if authorization is not None else None
