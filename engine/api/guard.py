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
from collections.abc import Awaitable, Callable, Collection, Mapping

import structlog
from aiohttp import web
from multidict import istr

from engine.api.ports import CommonServices
from engine.api.problems import refused, unavailable
from engine.api.response import Response
from engine.clocks.expiry import Expiry
from engine.errors import Broken, Closed, ConfigError, Misfit, Refusal, Unavailable, Undecided
from engine.written_numbers import plural

Action = Callable[[web.Request], Awaitable[Response]]
Handler = Callable[[web.Request], Awaitable[Response]]

# The task that a request has under this key is canceled when its caller hangs up before the answer.
ENDS_WITH_CALLER = web.RequestKey("ends_with_caller", asyncio.Task[object])
# How long a request had waited already for its body when it came here, seconds; absent: not at all.
WAITED_S = web.RequestKey("waited_s", float)
# Whether the key of a request was found good; absent: it was not, or none was wanted.
LET_IN = web.RequestKey("let_in", bool)
# What is wrong with the query of a request, for whoever finds its key good; absent: nothing.
_WRONG_QUERY = web.RequestKey("wrong_query", Refusal)
# The path of the API that a request is for, where the console has it under another; absent: its own.
CALLED_PATH = web.RequestKey("called_path", str)
# The id that the answer of a request will have.
REQUEST_ID = web.RequestKey("request_id", str)
_X_REQUEST_ID = istr("X-Request-Id")
_IDEMPOTENCY_KEY = istr("Idempotency-Key")
_AUTHORIZATION = istr("Authorization")
# The stores as a caller reads them, by the names of `Services.ready`.
_STORES = {"redis": "Redis", "postgres": "PostgreSQL"}
# What the paths of operators' calls have in them, those of the console too.
_ADMIN = "/v1/admin/"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY_ALLOWED = re.compile(r"[\x20-\x7e]{1,200}")

_log = structlog.get_logger(__name__)


def idempotency_key(request: web.Request) -> str:
    """The Idempotency-Key, "" when there is none. Raises Refusal 400."""
    key = request.headers.get(_IDEMPOTENCY_KEY)
    if key is None:
        return ""
    # One that is given twice, with two values, would be a guess.
    return checked_key(key, is_one=set(request.headers.getall(_IDEMPOTENCY_KEY)) == {key})


def checked_key(key: str, *, is_one: bool = True) -> str:
    """This value of the header Idempotency-Key. Raises Refusal 400 when it is not allowed or not `is_one`."""
    if not is_one or not _KEY_ALLOWED.fullmatch(key):
        raise Refusal(
            "invalid_idempotency_key",
            400,
            "`Idempotency-Key` must be 1 to 200 printable ASCII characters, and one for a request.",
            "Idempotency-Key",
        )
    return key


def asked_as_described(action: Action, parameters: Collection[str]) -> Action:
    """The action, for requests whose query has only these `parameters`, each of them once.

    Others are refused with 422: to take one of two values would be a guess, and without a filter whose name
    is misspelt the answer would be of other things than was asked for. It is `check_query` that refuses
    them, which the action calls when the key of the request is good for the call: who may not make a call
    learns nothing of its parameters."""
    there_are = f"there are {', '.join(parameters)}" if parameters else "it has none"

    async def answer(request: web.Request) -> Response:
        query = request.query
        for name in query:
            if name not in parameters:
                detail = f"`{name[:40]}` is no parameter of this call; {there_are}."
                request[_WRONG_QUERY] = Refusal("invalid_field", 422, detail, name[:40])
                return await action(request)
        if len(query) != len(set(query)):
            name = next(name for name in query if len(query.getall(name)) > 1)[:40]
            request[_WRONG_QUERY] = Refusal("invalid_field", 422, f"`{name}` must be given once.", name)
        return await action(request)

    return answer


def check_query(request: web.Request) -> None:
    """Call this when the key of a request was found good for its call. Raises Refusal 422 when its query is
    not as `asked_as_described` wants it."""
    wrong = request.get(_WRONG_QUERY)
    if wrong is not None:
        raise wrong


def fingerprint(request: web.Request, body: bytes) -> bytes:
    """Digest of method, path and body, 16 bytes. Requests with the same digest are the same request, whether
    they come by the console or not."""
    return fingerprint_of(request.method, request.get(CALLED_PATH, request.path), body)


def fingerprint_of(method: str, path: str, body: bytes) -> bytes:
    """As `fingerprint`, of these three."""
    hasher = hashlib.blake2b(f"{method} {path}\n".encode(), digest_size=16)
    hasher.update(body)
    return hasher.digest()


class RequestIds:
    """The ids that requests are given which bring none of their own."""

    def __init__(self) -> None:
        # Unique among processes, and cheaper than a random id for each request.
        self._prefix = secrets.token_hex(6)
        self._count = itertools.count(1)

    def of(self, header: str | None) -> str:
        """The value of the header X-Request-Id when it is allowed, else one that nobody else has."""
        if header is not None and _REQUEST_ID.fullmatch(header):
            return header
        return f"{self._prefix}-{next(self._count):x}"


class Deadlines:
    """Cancels the tasks of requests that take too long.

    All requests have the same time. Calls that have another time have deadlines of their own.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._running = Expiry(timeout_s, self._cancel)
        # Those that were canceled because their time was over.
        self._over: set[asyncio.Task[object]] = set()

    def begin(self, ago_s: float = 0.0) -> asyncio.Task[object]:
        """The time of the request in the current task runs, since `ago_s` seconds ago; the task."""
        task = asyncio.current_task()
        assert task is not None
        self._running.begin(task, ago_s)
        return task

    def is_over(self, task: asyncio.Task[object]) -> bool:
        """Whether the time of this task's request is over, and the task was canceled for that."""
        return task in self._over

    def end(self, task: asyncio.Task[object]) -> None:
        """The request of this task has its answer; its time no longer runs."""
        if not self._running.stop(task):
            self._over.remove(task)
            task.uncancel()

    def _cancel(self, task: asyncio.Task[object]) -> None:
        self._over.add(task)
        task.cancel()


class Exchanges:
    """Makes handlers of the actions of one process."""

    def __init__(self, services: CommonServices) -> None:
        self._deadlines = Deadlines(services.timeout_s)
        self._ready = services.ready
        self._parting = services.parting
        self._counts = services.counts
        self._ids = RequestIds()

    def guard(
        self, action: Action, timeout_s: float | None = None, *, ends_with_caller: bool = False
    ) -> Handler:
        """The action as a handler that never raises: every error becomes a problem.

        `timeout_s`: its time, when that is not that of all requests. `ends_with_caller`: the action is
        of use to its caller alone, so it is canceled when that one hangs up; any other goes on."""
        deadlines = self._deadlines if timeout_s is None else Deadlines(timeout_s)
        parting = self._parting

        async def handler(request: web.Request) -> Response:
            request_id = request[REQUEST_ID] = self._ids.of(request.headers.get(_X_REQUEST_ID))
            task = deadlines.begin(request.get(WAITED_S, 0.0))
            if ends_with_caller:
                request[ENDS_WITH_CALLER] = task
            try:
                _check_credentials(request)
                response = await action(request)
            except asyncio.CancelledError:
                if not deadlines.is_over(task):
                    raise
                response = await self._late(request, request_id, deadlines.timeout_s)
            except Exception as e:
                # Nothing above this could answer the caller.
                response = problem(e, request_id, request.method, _route(request))
            finally:
                request.pop(ENDS_WITH_CALLER, None)
                deadlines.end(task)
            response.request_id = request_id
            self._counts.add(response)
            # After a body that is not as its headers say, nobody knows where the next request begins.
            if parting() or request.content.exception() is not None:
                response.force_close()
            return response

        return handler

    async def _late(self, request: web.Request, request_id: str, timeout_s: float) -> Response:
        if not request.content.is_eof():
            detail = f"The body must arrive within {timeout_s:g} {plural('second', timeout_s)}."
            response = refused(Refusal("body_timeout", 408, detail), request_id)
            response.force_close()
            return response
        has_key = bool(request.headers.get(_IDEMPOTENCY_KEY))
        return await late(self._ready, request_id, request.method, timeout_s, has_key=has_key)


def problem(error: Exception, request_id: str, method: str, route: str | None) -> Response:
    """The answer to a request that failed with `error`, whatever it is."""
    if isinstance(error, Refusal):
        return refused(error, request_id)
    if isinstance(error, ConfigError):
        # A store that refuses (a password, a database that is missing) is of no more use to a caller than one
        # that is away. The same request may succeed when an operator has acted.
        error = Unavailable(str(error))
    if isinstance(error, Closed):
        return unavailable(error, request_id, error.code)
    if isinstance(error, Unavailable):
        code = "outcome_unknown" if isinstance(error, Undecided) else "unavailable"
        return unavailable(error, request_id, code, to_operator=_ADMIN in (route or ""))
    return _failed(error, request_id, method, route)


async def late(
    ready: Callable[[], Awaitable[Mapping[str, str]]],
    request_id: str,
    method: str,
    timeout_s: float,
    *,
    has_key: bool,
) -> Response:
    """What to do, and which stores are away, for all that is known; `has_key`: an Idempotency-Key.

    Whether the request took effect is unknown, unless it only reads.
    """
    away = [_STORES[name] for name, state in (await ready()).items() if state != "ok"]
    does = "does" if len(away) == 1 else "do"
    the = f"{' and '.join(away)} {does} not answer, so the" if away else "The"
    time = f"{timeout_s:g} {plural('second', timeout_s)}"
    detail = f"{the} request was not answered within {time}{_advice(method, has_key)}"
    return unavailable(Unavailable(detail), request_id, "timeout")


def _advice(method: str, has_key: bool) -> str:
    """The end of the sentence about a request that was not answered: whether it may have taken effect, and
    how to repeat it."""
    match method:
        case "GET" | "HEAD":
            return "; try again later."
        case "POST" if has_key:
            return " and may have taken effect; try again with the same Idempotency-Key."
        case "POST":
            return " and may have taken effect; it had no Idempotency-Key, so a second one may count too."
        case _:
            return " and may have taken effect; the same request may be repeated."


def _check_credentials(request: web.Request) -> None:
    """Raises Refusal 400 for two headers Authorization: a proxy may have read the other one."""
    if len(request.headers.getall(_AUTHORIZATION, ())) > 1:
        raise Refusal("invalid_request", 400, "`Authorization` must be there once.", "Authorization")


def _route(request: web.Request) -> str | None:
    resource = request.match_info.route.resource
    return resource.canonical if resource else None


def _failed(error: Exception, request_id: str, method: str, route: str | None) -> Response:
    """500. The log gets the frames but not the error's text, which may quote the request."""
    _log.error(
        "request failed",
        request_id=request_id,
        method=method,
        route=route,
        error=type(error).__qualname__,
        frames=traceback.format_tb(error.__traceback__),
    )
    if isinstance(error, Broken) and not isinstance(error, Misfit):
        # An invariant is broken: the loop's handler of exceptions ends the process.
        context = {"message": "an invariant does not hold", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)
    detail = "The engine failed on this request; name its `request_id` when you report it."
    return refused(Refusal("internal", 500, detail), request_id)
