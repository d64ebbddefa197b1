"""Keys that callers present, remembered for seconds.

A key that PostgreSQL knew less than `fresh_s` ago is accepted at once. From half that age on it
is looked up again in the background: a busy key never waits, and a revoked one is refused within
`fresh_s`. Such lookups gather for a moment, so that many busy keys cost few queries. Unknown keys
are looked up in batches: the next query takes all that were asked for while the last one was under
way, each key once, however many requests wait for it. Queries begin `_APART_S` after one another, so that
many callers who are new share them; the first of them does not wait.

Under failure. PostgreSQL slow: a key that was known less than `slow_s` ago does not wait for a lookup
that takes long, and a revoked one is refused that much later. PostgreSQL away: a known key stays good
for `stale_s` after it was last seen, without waiting, while lookups go on in the background; any other
key gets Unavailable, at once or nearly so: its lookup goes on, for the next request. The first requests
after the loss wait for the lookup that finds the loss, those with other keys for a second and a half. When
PostgreSQL is back, a stale key may be accepted until the first lookup has answered.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import Generic, Protocol, TypeVar

import structlog

from engine import api_keys
from engine.errors import Refusal, Unavailable

# What a caller without an API key is told to bring.
API_KEY_WANTED = "an API key that is not revoked or expired"
_LOOKUP_MAX = 1_000
_WANTED_MAX = 10_000
_UNKNOWN_MAX = 10_000
_CLOSE_S = 5.0
# How long keys gather that are looked up again, seconds.
_GATHER_S = 0.1
# Lookups begin so long after one another, seconds: where many callers are new, more keys share one.
_APART_S = 0.01
# A lookup that takes longer is not waited for by a key that was known a moment ago, seconds.
_LATE_S = 0.25
# The first that come with unknown keys wait so long for a lookup, seconds. Once one has failed, those that
# come wait for `_LATE_S`: time enough for a PostgreSQL that is back.
_PATIENCE_S = 1.5

_log = structlog.get_logger(__name__)


class Provable(Protocol):
    """What a key is checked against."""

    @property
    def secret_sha256(self) -> bytes:
        """The SHA-256 of its secret, 32 bytes."""


C = TypeVar("C", bound=Provable)


class Presented:
    """A key as a caller presents it, to be kept beside the octets of the header that it came in."""

    __slots__ = ("key_id", "proven", "secret", "sends_from_anywhere")

    def __init__(self, key_id: int, secret: str) -> None:
        self.key_id = key_id
        self.secret = secret
        # The credential that the secret was found good for. One that was looked up again is another object,
        # and the secret is compared again.
        self.proven: object | None = None
        # The credential that was found good for sending, whatever address a request comes from.
        self.sends_from_anywhere: object | None = None

    def digest(self) -> bytes:
        """The SHA-256 of the secret, 32 bytes."""
        return api_keys.digest(self.secret)

    @classmethod
    def by(cls, authorization: str) -> Presented | None:
        """The key in this value of the header Authorization; None when it has none."""
        presented = api_keys.bearer_key(authorization)
        return cls(*presented) if presented else None


class PresentedBefore(Presented):
    """A key that was presented and found good at another time. Only the digest of its secret was kept."""

    __slots__ = ("_secret_sha256",)

    def __init__(self, key_id: int, secret_sha256: bytes) -> None:
        super().__init__(key_id, "")
        self._secret_sha256 = secret_sha256

    def digest(self) -> bytes:
        """As it was kept."""
        return self._secret_sha256


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


class KeyCache(Generic[C]):
    """The credentials of one kind of keys. One per process, on its loop."""

    def __init__(
        self,
        look_up: Callable[[Sequence[int]], Awaitable[Mapping[int, C]]],
        wanted: str,
        *,
        fresh_s: float = 1.0,
        slow_s: float = 10.0,
        unknown_s: float = 1.0,
        stale_s: float = 300.0,
        entries_max: int = 100_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`look_up`: the credentials of those keys that are good, by key id; raises Unavailable. `wanted`:
        what a caller with another key is told to bring."""
        self._look_up_all = look_up
        self._wanted_words = wanted
        self._fresh_s = fresh_s
        self._slow_s = slow_s
        self._unknown_s = unknown_s
        self._stale_s = stale_s
        self._entries_max = entries_max
        self._clock = clock
        # Least recently used first: key id → credential and when PostgreSQL said so.
        self._known: OrderedDict[int, tuple[C, float]] = OrderedDict()
        # Key id → when PostgreSQL did not know it. Kept apart: guesses cannot push good keys out.
        self._unknown: OrderedDict[int, float] = OrderedDict()
        self._wanted: dict[int, asyncio.Future[C | Exception | None]] = {}
        self._asked: dict[int, asyncio.Future[C | Exception | None]] = {}
        self._lookups: asyncio.Task[None] | None = None
        # When the lookup under way began; None: there is none.
        self._asked_at: float | None = None
        # From when on the next one may begin, the loop's time.
        self._next_s = float("-inf")
        self._ageing = _Ageing(self._want)
        # The last lookup failed: PostgreSQL is away as far as we know.
        self._away = False
        # Those that callers have proven since somebody last took this set (`engine.api.last_uses`).
        self.used: set[int] = set()
        # When the newest of the known keys was seen.
        self._seen_at = float("-inf")

    async def found(self, presented: Presented | None) -> C:
        """The credential of a key; None: the caller brings none. Raises Refusal 401, Unavailable."""
        if presented is None:
            raise unauthorised(self._wanted_words)
        key_id = presented.key_id
        credential = self._remembered(key_id) or await self._looked_up(key_id)
        return self._used(credential, presented)

    def found_at_once(self, presented: Presented) -> C | None:
        """The same of a key that need not be looked up; None for one that must be. Raises Refusal 401."""
        key_id = presented.key_id
        entry = self._known.get(key_id)
        if (
            entry is not None
            and entry[0] is presented.proven
            and (self._clock() - entry[1]) * 2 <= self._fresh_s
        ):
            # As nearly always: nothing of what follows would find more to do.
            self._known.move_to_end(key_id)
            self.used.add(key_id)
            return entry[0]
        credential = self._remembered(key_id)
        if credential is None:
            return None
        if credential is not presented.proven:
            presented.proven = self._checked(credential, presented)
        self.used.add(presented.key_id)
        return credential

    def _used(self, credential: C | None, presented: Presented) -> C:
        good = self._checked(credential, presented)
        self.used.add(presented.key_id)
        return good

    def _checked(self, credential: C | None, presented: Presented) -> C:
        if credential is None or not hmac.compare_digest(presented.digest(), credential.secret_sha256):
            raise unauthorised(self._wanted_words)
        return credential

    def are_known(self) -> bool:
        """Whether any key would be accepted although PostgreSQL is away."""
        return bool(self._known) and self._clock() - self._seen_at < self._stale_s

    async def close(self) -> None:
        """Give up the lookups under way."""
        self._ageing.forget()
        if self._lookups is not None:
            self._lookups.cancel()
            await asyncio.wait([self._lookups], timeout=_CLOSE_S)

    def _remembered(self, key_id: int) -> C | None:
        """The credential when no lookup need be awaited. Raises Refusal 401 for a key known to be none."""
        now = self._clock()
        entry = self._known.get(key_id)
        if entry is None:
            unknown_at = self._unknown.get(key_id)
            if unknown_at is not None and now - unknown_at < self._unknown_s:
                raise unauthorised(self._wanted_words)
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

    async def _looked_up(self, key_id: int) -> C | None:
        if len(self._wanted) >= _WANTED_MAX:
            raise Unavailable("Too many unknown API keys are being looked up.")
        entry = self._known.get(key_id)
        is_known = entry is not None and self._clock() - entry[1] < self._stale_s
        # Of a key that was known the answer is worth the wait: without one it is good.
        patience_s = None if is_known else _LATE_S if self._away else _PATIENCE_S
        asked = self._want(key_id)
        # It cancels nothing: a request that gives up must not take the answer from the others.
        await asyncio.wait([asked], timeout=patience_s)
        if not asked.done():
            raise Unavailable("The API key cannot be looked up now, so nothing was done; try again later.")
        looked = asked.result()
        if isinstance(looked, Unavailable):
            entry = self._known.get(key_id)
            if entry is None or self._clock() - entry[1] >= self._stale_s:
                raise looked
            return entry[0]
        if isinstance(looked, Exception):
            raise looked
        return looked

    def _want(self, key_id: int) -> asyncio.Future[C | Exception | None]:
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
            loop = asyncio.get_running_loop()
            while self._wanted:
                if (pause_s := self._next_s - loop.time()) > 0:
                    await asyncio.sleep(pause_s)
                self._next_s = loop.time() + _APART_S
                for key_id in list(islice(self._wanted, _LOOKUP_MAX)):
                    self._asked[key_id] = self._wanted.pop(key_id)
                # The time before the question, so that no age is ever taken for lower than it is.
                self._asked_at = asked_at = self._clock()
                try:
                    found = await self._look_up_all(list(self._asked))
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

    def _tell(self, looked: Mapping[int, C | Exception | None]) -> None:
        for key_id, future in self._asked.items():
            future.set_result(looked.get(key_id))
        self._asked.clear()

    def _remember(self, key_id: int, credential: C | None, now: float) -> None:
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


def unauthorised(wanted: str = API_KEY_WANTED) -> Refusal:
    """A 401. It says the same whether the key is missing, misspelt, unknown, revoked or wrong."""
    return Refusal("unauthorised", 401, f"`Authorization` must be `Bearer` and {wanted}.", "Authorization")
