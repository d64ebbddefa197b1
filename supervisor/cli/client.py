"""The caller's side of the HTTP API: one kept connection, typed answers, the engine's errors.

It is synchronous on purpose: the commands that use it do one thing after another, and the
sender gives each of its few threads a client of its own.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from engine.errors import ConfigError, Refusal, Unavailable
from engine.written_numbers import real

T = TypeVar("T")

# How the address of a Unix socket begins.
_UNIX = "unix:"
# Pause after a 429 or 503 that has no Retry-After, seconds.
RETRY_AFTER_S = 1.0
# Octets of one part of an answer that is read in parts, at most.
_PART_BYTES = 1 << 16
# Longest wait for an answer, seconds; longer than the engine's own limit.
TIMEOUT_S = 30.0


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 9457 problem details, as the API writes them."""

    code: str = ""
    title: str = ""
    status: int = 0
    detail: str = ""
    field: str | None = None


class _Readiness(msgspec.Struct, frozen=True):
    """What /readyz answers: "ok", or why not, and of each part "ok" or a sentence."""

    status: str
    parts: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer whose HTTP status is below 400."""

    status: int
    body: bytes


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket. Raises OSError."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """One connection to the API at `url`, opened when it is needed, and again after it broke.

    Several threads must not use it at once.
    """

    def __init__(self, url: str, key: str, timeout_s: float = TIMEOUT_S) -> None:
        """`key` is an API key or the admin key, "" for none; `timeout_s` is for each answer.

        Raises ConfigError when `url` is not an http or https URL or unix:/PATH, or `key` not plain ASCII.
        """
        if not key.isascii() or any(c.isspace() for c in key):
            raise ConfigError("The key must be plain ASCII text without spaces.")
        self.url = url.rstrip("/")
        self._connection, self._prefix = _connection(url, timeout_s)
        self._headers = {"Accept": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    def close(self) -> None:
        """Close the connection; a later call opens it again."""
        self._connection.close()

    def get(self, path: str, answer: type[T]) -> T:
        """Send a GET and decode the answer. Raises Refusal, Unavailable."""
        return decode(self.call("GET", path).body, answer)

    def post(self, path: str, body: object, answer: type[T], idempotency_key: str = "") -> T:
        """Send a JSON body and decode the answer. Raises Refusal, Unavailable.

        After Unavailable it is not known whether the engine acted. The same call with the same
        `idempotency_key` can be repeated, and the engine acts once.
        """
        return decode(self.call("POST", path, json_bytes(body), idempotency_key).body, answer)

    def call(self, method: str, path: str, body: bytes | None = None, idempotency_key: str = "") -> Reply:
        """Send one request. Raises Unavailable for 429, 5xx and a broken connection, else Refusal for 4xx."""
        headers = self._headers
        if body is not None:
            headers = headers | {"Content-Type": "application/json"}
        if idempotency_key:
            headers = headers | {"Idempotency-Key": idempotency_key}
        try:
            self._connection.request(method, self._prefix + path, body, headers)
            answer = self._connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as e:
            self._connection.close()
            raise Unavailable(f"The engine at {self.url} cannot be reached: {_reason(e)}.", 0.05) from e
        if answer.status < 400:
            return Reply(status=answer.status, body=content)
        raise _error(answer.status, answer.getheader("Retry-After"), content, self.url)

    def parts(self, path: str) -> Iterator[bytes]:
        """Send a GET, and read the body of its answer in parts, as they come; none is kept.

        The connection serves no other call meanwhile. Raises as `call` does, and Unavailable when the body
        breaks off: then it is not whole.
        """
        try:
            self._connection.request("GET", self._prefix + path, headers=self._headers)
            answer = self._connection.getresponse()
            if answer.status >= 400:
                raise _error(answer.status, answer.getheader("Retry-After"), answer.read(), self.url)
            while part := answer.read1(_PART_BYTES):
                yield part
        except (OSError, http.client.HTTPException) as e:
            raise Unavailable(f"The answer of the engine at {self.url} broke off: {_reason(e)}.") from e
        finally:
            # What is left of the answer, when nobody reads on, is not for the next call.
            self._connection.close()


def _connection(url: str, timeout_s: float) -> tuple[http.client.HTTPConnection, str]:
    """(a connection, not open yet; what stands before each path). Raises ConfigError."""
    if url.startswith(_UNIX):
        return _UnixConnection(url.removeprefix(_UNIX), timeout_s), ""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as e:
        raise ConfigError(f"The URL {url!r} is not valid: {e}.") from e
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"The URL {url!r} must look like http://HOST:PORT.")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(host, port, timeout=timeout_s), parts.path.rstrip("/")


def json_bytes(body: object) -> bytes:
    """The body as JSON, in UTF-8. Raises ConfigError for a text that is none: an argument has octets that
    are not UTF-8, which Python hands on as halves of surrogate pairs."""
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError as e:
        given = msgspec.to_builtins(body)
        fields = given.items() if isinstance(given, dict) else ()
        named = [name for name, value in fields if _has_halves(str(value))]
        raise ConfigError(f"The {named[0] if named else 'argument'} must be UTF-8.") from e


def _has_halves(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text)


def decode(body: bytes, answer: type[T]) -> T:
    """The body as a record. Raises Unavailable when it is not what the API promises to answer."""
    try:
        return msgspec.json.decode(body, type=answer)
    except msgspec.MsgspecError as e:
        raise Unavailable(f"The answer is not that of an smsengine of this version: {e}.") from e


def _error(status: int, retry_after: str | None, content: bytes, url: str) -> Refusal | Unavailable:
    try:
        problem = msgspec.json.decode(content, type=Problem)
    except msgspec.MsgspecError:
        problem = Problem(detail=_not_ready(content, url) or _answered(status, url))
    detail = problem.detail or problem.title or f"The engine answered {status}"
    if status == 429 or status >= 500:
        return Unavailable(detail, _seconds(retry_after))
    return Refusal(problem.code or str(status), status, detail, problem.field)


def _answered(status: int, url: str) -> str:
    return f"{url} answered {status} {http.client.responses.get(status, '')}".strip()


def _not_ready(content: bytes, url: str) -> str:
    """What is wrong by an answer of /readyz; "" for another answer."""
    try:
        found = msgspec.json.decode(content, type=_Readiness)
    except msgspec.MsgspecError:
        return ""
    away = [f"{part}: {state}" for part, state in found.parts.items() if state != "ok"]
    return f"{url} is {found.status}" + "".join(f"; {one}" for one in away)


def _seconds(retry_after: str | None) -> float:
    """The pause that a Retry-After asks for, seconds, an hour at most.

    RFC 9110 allows a date there too; the engine never sends one, so it counts as absent.
    """
    try:
        # With the arguments in this order "nan" becomes 0.
        return min(max(0.0, real(retry_after or "")), 3600.0)
    except ValueError:
        return RETRY_AFTER_S


def _reason(e: OSError | http.client.HTTPException) -> str:
    if isinstance(e, TimeoutError):
        return "no answer in time"
    if isinstance(e, ConnectionRefusedError):
        return "nothing listens there"
    if isinstance(e, OSError) and e.strerror:
        return e.strerror.lower()
    return "the connection broke"
