"""The customers and the operator of a soak: threads that send, look up, and ask, each at an even rate."""

from __future__ import annotations

import http.client
import random
import threading
import time
import uuid
from array import array
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.soak.world import World, text_of
from tests.system.client import Caller

# Of all messages: singles by express and by normal, scheduled ones; the rest comes in batches.
_EXPRESS, _NORMAL, _SCHEDULED = 0.2, 0.1, 0.01
_BATCH = 20
# Repeats of a request with its Idempotency-Key, of all single messages.
_REPEATED = 0.02
_PATIENCE_S = 180.0


class Traffic:
    """Sends `per_s` messages a second in all until it is stopped."""

    def __init__(self, world: World, per_s: float, seed: int) -> None:
        # Ids, each with the API key of its organisation.
        self.accepted: list[tuple[str, str]] = []
        self.trouble: list[str] = []
        self.refusals: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        # Milliseconds of each single message that was answered 202 at the first try, since the last `taken`.
        self._latencies_ms = array("d")
        self._lock = threading.Lock()
        self._world = world
        self._stop = threading.Event()
        singles = (_EXPRESS + _NORMAL + _SCHEDULED) * per_s
        batches = max(0.0, per_s - singles) / _BATCH
        steps: list[tuple[Callable[[Caller, random.Random], None], float, str]] = [
            (self._express, _EXPRESS * per_s / 2, ""),
            (self._express, _EXPRESS * per_s / 2, ""),
            (self._normal, _NORMAL * per_s, ""),
            (self._scheduled, _SCHEDULED * per_s, ""),
            (self._batch, batches / 2, ""),
            (self._batch, batches / 2, ""),
            (self._look_up, 3.0, ""),
            (self._operate, 0.5, world.engine.admin_key),
        ]
        self._threads = [
            threading.Thread(target=self._at, args=(step, rate, random.Random(f"{seed} {n}"), key))
            for n, (step, rate, key) in enumerate(steps)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[tuple[str, str]]:
        """End it; all that was accepted."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.accepted

    def taken(self) -> list[float]:
        """The latencies since the last call, in ascending order, milliseconds."""
        with self._lock:
            taken, self._latencies_ms = self._latencies_ms, array("d")
        return sorted(taken)

    def _at(
        self, step: Callable[[Caller, random.Random], None], per_s: float, rng: random.Random, key: str
    ) -> None:
        """Do one step after another; one that falls behind does not catch up with a burst."""
        engine = self._world.engine
        operator = [Caller(engine.admin_url, key)] if key else []
        callers = operator or [Caller(engine.url, one) for one in self._world.keys]
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due, time.monotonic() - 1.0) + rng.expovariate(per_s)
            try:
                step(rng.choice(callers), rng)
            # A thread's failure is the soak's: it goes on, and the end tells it.
            except Exception as e:
                self.trouble.append(f"{step.__name__}: {e!r}"[:300])

    def _express(self, caller: Caller, rng: random.Random) -> None:
        self._single(caller, rng, queue="express")

    def _normal(self, caller: Caller, rng: random.Random) -> None:
        self._single(caller, rng, queue="normal")

    def _scheduled(self, caller: Caller, rng: random.Random) -> None:
        at = datetime.now(UTC) + timedelta(seconds=rng.uniform(2, 60))
        self._single(caller, rng, queue=rng.choice(("express", "normal")), send_at=at.isoformat())

    def _single(self, caller: Caller, rng: random.Random, **fields: Any) -> None:
        body = {"to": f"+98912{rng.randrange(10**7):07}", "text": text_of(rng), "reference": "soak", **fields}
        if rng.random() < _REPEATED:
            key = str(uuid.uuid4())
            first, again = (self._decided(caller, "/v1/messages", body, key) for _ in range(2))
            assert first["id"] == again["id"], "a request that was repeated with its key was taken twice"
            self.accepted.append((first["id"], caller.key))
            return
        began = time.monotonic()
        answer = self._decided(caller, "/v1/messages", body, "")
        if answer is not None:
            with self._lock:
                self._latencies_ms.append((time.monotonic() - began) * 1000)
            self.accepted.append((answer["id"], caller.key))

    def _batch(self, caller: Caller, rng: random.Random) -> None:
        messages = [
            {
                "to": f"+98912{rng.randrange(10**7):07}",
                "text": text_of(rng),
                "queue": "express" if rng.random() < 0.2 else "normal",
            }
            for _ in range(_BATCH)
        ]
        answer = self._decided(caller, "/v1/messages/batch", {"messages": messages}, "")
        if answer is not None:
            self.accepted += [(result["id"], caller.key) for result in answer["results"]]

    def _decided(self, caller: Caller, path: str, body: Any, key: str) -> Any:
        """The answer 202; without a key None when it failed, which is counted: it may be taken or not."""
        headers = {"Idempotency-Key": key} if key else {}
        until = time.monotonic() + _PATIENCE_S
        while True:
            self.calls[path] += 1
            try:
                status, answer = caller.call("POST", path, body, **headers)
                if status == 202:
                    return answer
                if status not in (429, 503):
                    raise AssertionError(f"{status}: {answer}")
                self.refusals[str(status)] += 1
            except (OSError, http.client.HTTPException) as e:
                self.refusals[type(e).__name__] += 1
            if not key:
                return None
            if time.monotonic() > until:
                raise TimeoutError(f"{path} was not decided in {_PATIENCE_S:g} s.")
            time.sleep(0.1)

    def _look_up(self, caller: Caller, rng: random.Random) -> None:
        """One of the last messages, or of all; which organisation asks may be the wrong one: 404."""
        if not self.accepted:
            return
        recent = self.accepted[-5000:] if rng.random() < 0.7 else self.accepted
        path = rng.choice(
            (f"/v1/messages/{rng.choice(recent)[0]}", "/v1/balance", "/v1/balance/transactions")
        )
        self._ask(caller, "GET", path, (200, 404, 503))

    def _operate(self, caller: Caller, rng: random.Random) -> None:
        """One call of an operator, or of what watches the engine."""
        path = rng.choice(
            (
                "/v1/admin/status", "/v1/admin/status", "/metrics", "/readyz", "/v1/admin/organisations",
                "/v1/admin/queues/normal", "/v1/admin/providers", "/v1/admin/problems", "/v1/admin/audit",
                "/v1/admin/dead-letters", "/v1/admin/routes", "/v1/admin/prices",
            )
        )  # fmt: skip
        self._ask(caller, "GET", path, (200, 503))

    def _ask(self, caller: Caller, method: str, path: str, allowed: tuple[int, ...]) -> None:
        self.calls[path if "/messages/" not in path else "/v1/messages/{id}"] += 1
        try:
            status, _ = caller.call(method, path)
        except (OSError, http.client.HTTPException) as e:
            self.refusals[type(e).__name__] += 1
            return
        except ValueError:
            # The metrics are no JSON.
            return
        assert status in allowed, f"{path}: {status}"
