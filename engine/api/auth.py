"""Who is calling: API keys, remembered for seconds, and the admin key.

A key that PostgreSQL knew less than `fresh_s` ago is accepted at once. From half that age on it
is looked up again in the background: a busy key never waits, and a revoked one is refused within
`fresh_s`. Such lookups gather for a moment, so that many busy keys cost few queries. Unknown keys
are looked up in batches: the next query takes all that were asked for while the last one was under
way, each key once, however many requests wait for it.

Under failure. PostgreSQL slow: a key that was known less than `slow_s` ago does not wait for a lookup
that takes long, and a revoked one is refused that much later. PostgreSQL away: a known key stays good
for `stale_s` after it was last seen, without waiting, while lookups go on in the background; any other
key gets Unavailable. The first requests after the loss wait for the lookup that finds the loss. When
PostgreSQL is back, a stale key may be accepted until the first lookup has answered.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import islice

import structlog

from engine import api_keys
from engine.api.ports import Directory
from engine.errors import Refusal, Unavailable
from engine.organisations import Credential

_LOOKUP_MAX = 1_000
_WANTED_MAX = 10_000
_UNKNOWN_MAX = 10_000
_CLOSE_S = 5.0
# How long keys gather that are looked up again, seconds.
_GATHER_S = 0.1
# A lookup that takes longer is not waited for by a key that was known a moment ago, seconds.
_LATE_S = 0.25

_log = structlog.get_logger(__name__)

# A future carries a failed lookup as a value, not as an exception: nobody may wait for it any more,
# and an exception that nobody reads is reported by the loop.
_Looked = Credential | Exception | None


class Presented:
    """A key as a caller presents it, to be kept beside the octets of the header that it came in."""

    __slots__ = ("key_id", "proven", "secret")

    def __init__(self, key_id: int, secret: str) -> None:
        self.key_id = key_id
        self.secret = secret
        # The credential that the secret was found good for. One that was looked up again is another object,
        # and the secret is compared again.
        self.proven: Credential | None = None

    @classmethod
    def by(cls, authorization: str) -> Presented | None:
        """The key in this value of the header Authorization; None when it has none."""
        presented = api_keys.bearer_key(authorization)
        return cls(*presented) if presented else None


def _presented(authorization: str | None) -> Presented:
    presented = Presented.by(authorization) if authorization is not None else None
    if presented is None:
        raise unauthorised()
    return presented


class _Ageing:
    """Keys to be looked up again, for nobody who waits. They gather for a moment and go together."""

    def __init__(self, want: Callable[[int], object]) -> None:
        """`want` looks a key up."""
        self._want = want
        self._keys: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, key_id: int) -> None:
        """Look this one up soon."""
        if len(self._keys) < _WANTED_MAX:
            self._keys.add(key_id)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_GATHER_S, self._look_up)

    def forget(self) -> None:
        """Look none up any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look_up(self) -> None:
        self._timer = None
        keys, self._keys = self._keys, set()
        for key_id in keys:
            self._want(key_id)


class Keys:
    """API keys, and the organisation that each of them speaks for. One per process, on its loop."""

    def __init__(
        self,
        directory: Directory,
        *,
        fresh_s: float = 1.0,
        slow_s: float = 10.0,
        unknown_s: float = 1.0,
        stale_s: float = 300.0,
        entries_max: int = 100_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._fresh_s = fresh_s
        self._slow_s = slow_s
        self._unknown_s = unknown_s
        self._stale_s = stale_s
        self._entries_max = entries_max
        self._clock = clock
        # Least recently used first: key id → credential and when PostgreSQL said so.
        self._known: OrderedDict[int, tuple[Credential, float]] = OrderedDict()
        # Key id → when PostgreSQL did not know it. Kept apart: guesses cannot push good keys out.
        self._unknown: OrderedDict[int, float] = OrderedDict()
        self._wanted: dict[int, asyncio.Future[_Looked]] = {}
        self._asked: dict[int, asyncio.Future[_Looked]] = {}
        self._lookups: asyncio.Task[None] | None = None
        # When the lookup under way began; None: there is none.
        self._asked_at: float | None = None
        self._ageing = _Ageing(self._want)
        # The last lookup failed: PostgreSQL is away as far as we know.
        self._away = False
        # When the newest of the known keys was seen.
        self._seen_at = float("-inf")

    async def organisation(self, authorization: str | None) -> int:
        """The organisation whose key the header carries. Raises Refusal 401, Unavailable."""
        return (await self._found(_presented(authorization))).organisation_id

    async def sender(self, authorization: str | None) -> int:
        """The same for one that wants to send. Raises Refusal 401, 403, Unavailable."""
        return await self.looked_up_sender(_presented(authorization))

    def sender_at_once(self, presented: Presented) -> int | None:
        """The same for a key that need not be looked up; None for one that must be.

        Raises Refusal 401, 403."""
        credential = self._remembered(presented.key_id)
        if credential is None:
            return None
        if credential is not presented.proven:
            presented.proven = _checked(credential, presented.secret)
        return _sender(credential)

    async def looked_up_sender(self, presented: Presented) -> int:
        """As `sender`, for a key that has been read before."""
        return _sender(await self._found(presented))

    async def _found(self, presented: Presented) -> Credential:
        """The credential of a key. Raises Refusal 401, Unavailable."""
        key_id = presented.key_id
        return _checked(self._remembered(key_id) or await self._looked_up(key_id), presented.secret)

    def are_known(self) -> bool:
        """Whether any key would be accepted although PostgreSQL is away."""
        return bool(self._known) and self._clock() - self._seen_at < self._stale_s

    async def close(self) -> None:
        """Give up the lookups under way."""
        self._ageing.forget()
        if self._lookups is not None:
            self._lookups.cancel()
            await asyncio.wait([self._lookups], timeout=_CLOSE_S)

    def _remembered(self, key_id: int) -> Credential | None:
        """The credential when no lookup need be awaited. Raises Refusal 401 for a key known to be none."""
        now = self._clock()
        entry = self._known.get(key_id)
        if entry is None:
            unknown_at = self._unknown.get(key_id)
            if unknown_at is not None and now - unknown_at < self._unknown_s:
                raise unauthorised()
            return None
        credential, seen_at = entry
        age_s = now - seen_at
        if age_s >= self._fresh_s and age_s >= self._good_without_s(now):
            return None
        if age_s * 2 > self._fresh_s:
            self._ageing.add(key_id)
        self._known.move_to_end(key_id)
        return credential

    def _good_without_s(self, now: float) -> float:
        """To what age a key is good that cannot be looked up in time, seconds."""
        if self._away:
            return self._stale_s
        is_slow = self._asked_at is not None and now - self._asked_at >= _LATE_S
        return self._slow_s if is_slow else 0.0

    async def _looked_up(self, key_id: int) -> Credential | None:
        if len(self._wanted) >= _WANTED_MAX:
            raise Unavailable("Too many unknown API keys are being looked up.")
        # Shielded: a request that gives up must not take the answer from the others.
        looked = await asyncio.shield(self._want(key_id))
        if isinstance(looked, Unavailable):
            entry = self._known.get(key_id)
            if entry is None or self._clock() - entry[1] >= self._stale_s:
                raise looked
            return entry[0]
        if isinstance(looked, Exception):
            raise looked
        return looked

    def _want(self, key_id: int) -> asyncio.Future[_Looked]:
        future = self._wanted.get(key_id) or self._asked.get(key_id)
        if future is None:
            loop = asyncio.get_running_loop()
            future = self._wanted[key_id] = loop.create_future()
            if self._lookups is None or self._lookups.done():
                self._lookups = loop.create_task(self._look_up(), name="api key lookups")
        return future

    async def _look_up(self) -> None:
        """Look up until nothing is wanted."""
        try:
            while self._wanted:
                for key_id in list(islice(self._wanted, _LOOKUP_MAX)):
                    self._asked[key_id] = self._wanted.pop(key_id)
                # The time before the question, so that no age is ever taken for lower than it is.
                self._asked_at = asked_at = self._clock()
                try:
                    found = await self._directory.credentials(list(self._asked))
                except Exception as e:
                    # The top of this loop: whoever waits is told, the next lookup tries anew.
                    if not self._away:
                        _log.warning("API keys cannot be looked up", error=type(e).__qualname__)
                    self._away = True
                    self._tell(dict.fromkeys(self._asked, e))
                else:
                    self._away = False
                    for key_id in self._asked:
                        self._remember(key_id, found.get(key_id), asked_at)
                    self._tell(found)
        finally:
            self._asked_at = None
            for future in (*self._asked.values(), *self._wanted.values()):
                future.cancel()

    def _tell(self, looked: Mapping[int, _Looked]) -> None:
        for key_id, future in self._asked.items():
            future.set_result(looked.get(key_id))
        self._asked.clear()

    def _remember(self, key_id: int, credential: Credential | None, now: float) -> None:
        if credential is not None:
            self._unknown.pop(key_id, None)
            # A refresh does not count as use: the key keeps its place among the least recently used.
            self._known[key_id] = (credential, now)
            self._seen_at = max(self._seen_at, now)
            if len(self._known) > self._entries_max:
                self._known.popitem(last=False)
        else:
            self._known.pop(key_id, None)
            self._unknown[key_id] = now
            self._unknown.move_to_end(key_id)
            if len(self._unknown) > _UNKNOWN_MAX:
                self._unknown.popitem(last=False)


class AdminKey:
    """The admin key, which all calls under /v1/admin need."""

    def __init__(self, key_sha256: bytes) -> None:
        self._key_sha256 = key_sha256

    def check(self, authorization: str | None) -> None:
        """Check the value of the header Authorization, None without one. Raises Refusal 401."""
        token = api_keys.bearer(authorization or "") or ""
        # No key at all is never the right one, not even where the key is empty.
        if not token or not hmac.compare_digest(api_keys.digest(token), self._key_sha256):
            raise unauthorised("the admin key")


def unauthorised(wanted: str = "an API key that is not revoked") -> Refusal:
    """A 401. It says the same whether the key is missing, misspelt, unknown, revoked or wrong."""
    return Refusal("unauthorised", 401, f"`Authorization` must be `Bearer` and {wanted}.", "Authorization")


def _sender(credential: Credential) -> int:
    """The organisation of one that wants to send. Raises Refusal 403."""
    if credential.suspended:
        raise Refusal(
            "organisation_suspended",
            403,
            "The organisation is suspended: usage of it is not booked yet. Ask the operator of this service.",
        )
    return credential.organisation_id


def _checked(credential: Credential | None, secret: str) -> Credential:
    if credential is None or not hmac.compare_digest(api_keys.digest(secret), credential.secret_sha256):
        raise unauthorised()
    return credential
