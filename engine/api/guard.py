"""One HTTP exchange: its id, its deadline, and an answer whatever happens.

Every handler of the API is an action in the one wrapper below (`Exchanges.guard`). It costs a few
microseconds a request; a chain of middlewares would cost a coroutine for each of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import re
import secrets
import traceback
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web
from multidict import istr

from engine.api.ports import Services
from engine.api.problems import refused, unavailable
from engine.api.response import Response
from engine.errors import Broken, Refusal, Unavailable, Undecided

Action = Callable[[web.Request], Awaitable[Response]]
Handler = Callable[[web.Request], Awaitable[Response]]

# The task that a request has under this key is canceled when its caller hangs up before the answer.
ENDS_WITH_CALLER = web.RequestKey("ends_with_caller", asyncio.Task[object])
_X_REQUEST_ID = istr("X-Request-Id")
_IDEMPOTENCY_KEY = istr("Idempotency-Key")
# The stores as a caller reads them, by the names of `Services.ready`.
_STORES = {"redis": "Redis", "postgres": "PostgreSQL"}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY_ALLOWED = re.compile(r"[\x20-\x7e]{1,200}")

_log = structlog.get_logger(__name__)


def idempotency_key(request: web.Request) -> str:
    """The Idempotency-Key, "" when there is none. Raises Refusal 400."""
    key = request.headers.get(_IDEMPOTENCY_KEY)
    if key is None:
        return ""
    # One that is given twice, with two values, would be a guess.
    if not _KEY_ALLOWED.fullmatch(key) or set(request.headers.getall(_IDEMPOTENCY_KEY)) != {key}:
        raise Refusal(
            "invalid_idempotency_key",
            400,
            "`Idempotency-Key` must be 1 to 200 printable ASCII characters, and one for a request.",
            "Idempotency-Key",
        )
    return key


def fingerprint(request: web.Request, body: bytes) -> bytes:
    """Digest of method, path and body, 16 bytes. Requests with the same digest are the same request."""
    hasher = hashlib.blake2b(f"{request.method} {request.path}\n".encode(), digest_size=16)
    hasher.update(body)
    return hasher.digest()


class Deadlines:
    """Cancels the tasks of requests that take too long.

    All requests have the same time, so they end in the order in which they began, and one timer
    serves them all. `asyncio.timeout` would set and cancel a timer for each request. Calls that have
    another time have deadlines of their own.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        # Oldest first: the task of a request → when its time is over; 0 when it was canceled.
        self._running: dict[asyncio.Task[object], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> asyncio.Task[object]:
        """Start the time of the request that runs in the current task; the task."""
        task = asyncio.current_task()
        assert task is not None
        loop = task.get_loop()
        self._running[task] = over_at = loop.time() + self.timeout_s
        if self._timer is None:
            self._timer = loop.call_at(over_at, self._expire, loop)
        return task

    def is_over(self, task: asyncio.Task[object]) -> bool:
        """Whether the time of this task's request is over, and the task was canceled for that."""
        return self._running[task] == 0

    def end(self, task: asyncio.Task[object]) -> None:
        """The request of this task has its answer; its time no longer runs."""
        if self._running.pop(task) == 0:
            task.uncancel()

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for task, over_at in self._running.items():
            if over_at > now:
                self._timer = loop.call_at(over_at, self._expire, loop)
                return
            if over_at:
                self._running[task] = 0
                task.cancel()


class Exchanges:
    """Makes handlers of the actions of one process."""

    def __init__(self, services: Services) -> None:
        self._deadlines = Deadlines(services.timeout_s)
        self._ready = services.ready
        self._draining = services.draining
        # Unique among processes, and cheaper than a random id for each request.
        self._prefix = secrets.token_hex(6)
        self._count = itertools.count(1)

    def guard(
        self, action: Action, timeout_s: float | None = None, *, ends_with_caller: bool = False
    ) -> Handler:
        """The action as a handler that never raises: every error becomes a problem.

        `timeout_s`: its time, when that is not that of all requests. `ends_with_caller`: the action is
        of use to its caller alone, so it is canceled when that one hangs up; any other goes on."""
        deadlines = self._deadlines if timeout_s is None else Deadlines(timeout_s)
        draining = self._draining

        async def handler(request: web.Request) -> Response:
            request_id = self._request_id(request)
            task = deadlines.begin()
            if ends_with_caller:
                request[ENDS_WITH_CALLER] = task
            try:
                response = await action(request)
            except asyncio.CancelledError:
                if not deadlines.is_over(task):
                    raise
                response = await self._late(request, request_id, deadlines.timeout_s)
            except Refusal as e:
                response = refused(e, request_id)
            except Unavailable as e:
                code = "outcome_unknown" if isinstance(e, Undecided) else "unavailable"
                response = unavailable(e, request_id, code)
            except Exception as e:
                # Nothing above this could answer the caller.
                response = _failed(e, request, request_id)
            finally:
                request.pop(ENDS_WITH_CALLER, None)
                deadlines.end(task)
            response.request_id = request_id
            # After a body that is not as its headers say, nobody knows where the next request begins.
            if draining.is_set() or request.content.exception() is not None:
                response.force_close()
            return response

        return handler

    def _request_id(self, request: web.Request) -> str:
        header = request.headers.get(_X_REQUEST_ID)
        if header is not None and _REQUEST_ID.fullmatch(header):
            return header
        return f"{self._prefix}-{next(self._count):x}"

    async def _late(self, request: web.Request, request_id: str, timeout_s: float) -> Response:
        """What to do, and which stores are away, for all that is known.

        Whether the request took effect is unknown, unless its body never came or it only reads.
        """
        if not request.content.is_eof():
            detail = f"The body must arrive within {timeout_s:g} seconds."
            response = refused(Refusal("body_timeout", 408, detail), request_id)
            response.force_close()
            return response
        away = [_STORES[name] for name, state in (await self._ready()).items() if state != "ok"]
        does = "does" if len(away) == 1 else "do"
        the = f"{' and '.join(away)} {does} not answer, so the" if away else "The"
        detail = f"{the} request was not answered within {timeout_s:g} seconds{_advice(request)}"
        return unavailable(Unavailable(detail), request_id, "timeout")


def _advice(request: web.Request) -> str:
    """The end of the sentence about a request that was not answered: whether it may have taken effect, and
    how to repeat it."""
    match request.method:
        case "GET" | "HEAD":
            return "; try again later."
        case "POST" if request.headers.get(_IDEMPOTENCY_KEY):
            return " and may have taken effect; try again with the same Idempotency-Key."
        case "POST":
            return " and may have taken effect; it had no Idempotency-Key, so a second one may count too."
        case _:
            return " and may have taken effect; the same request may be repeated."


def _failed(error: Exception, request: web.Request, request_id: str) -> Response:
    """500. The log gets the frames but not the error's text, which may quote the request."""
    resource = request.match_info.route.resource
    _log.error(
        "request failed",
        request_id=request_id,
        method=request.method,
        route=resource.canonical if resource else None,
        error=type(error).__qualname__,
        frames=traceback.format_tb(error.__traceback__),
    )
    if isinstance(error, Broken):
        # An invariant is broken: the loop's handler of exceptions ends the process.
        context = {"message": "an invariant does not hold", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)
    detail = "The engine failed on this request; name its `request_id` when you report it."
    return refused(Refusal("internal", 500, detail), request_id)
