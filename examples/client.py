"""A client of the API in the standard library alone, made from the engine's own /openapi.json.

    from client import Client, Problem

    api = Client("http://127.0.0.1:8080", "smse_1_...")
    sent = api.send_message(to="+4915112345678", text="Your code is 123456", queue="express")
    print(api.get_message(id=sent["id"])["status"])

Every call of the document is a method by its `operationId`; `help(api.send_message)` says what it does.
Parameters of the path and of the query, and the fields of the body, are arguments by name (`from_` for
`from`). What is refused raises `Problem`. A call that may be repeated gets an Idempotency-Key and is repeated
as long as the engine asks for it, so that nothing is sent twice. Not for several threads at once. Copy it and
change it as you like.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from typing import Any

# How often a call is sent that gets no answer, or is to be sent again later; and the longest wait, seconds.
TRIES = 5
WAIT_S_MAX = 30.0
AGAIN = (429, 503)


class Problem(Exception):
    """A call is refused; `code` is for programs, `detail` for people, `field` names what is wrong."""

    def __init__(self, status: int, document: dict[str, Any]) -> None:
        super().__init__(document.get("detail", f"HTTP status {status}"))
        self.status = status
        self.code = document.get("code", "")
        self.detail = document.get("detail", "")
        self.field = document.get("field")
        self.request_id = document.get("request_id")


class Client:
    """The calls of one address with one key."""

    def __init__(self, url: str, key: str, timeout_s: float = 30.0) -> None:
        """`url`: that of the API, or of the admin calls. Raises OSError when it does not answer."""
        self._url = url.rstrip("/")
        self._key = key
        self._timeout_s = timeout_s
        status, document, _ = self._ask("GET", "/openapi.json", None, {})
        if status != http.client.OK:
            raise Problem(status, document or {})
        self._parameters = document["components"]["parameters"]
        self._calls = {
            call["operationId"]: (method.upper(), path, call)
            for path, of in document["paths"].items()
            for method, call in of.items()
        }

    def __dir__(self) -> list[str]:
        """With the names of all calls."""
        return [*super().__dir__(), *self._calls]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """The call of this name."""
        try:
            method, path, call = self.__dict__["_calls"][name]
        except KeyError:
            raise AttributeError(f"The API has no call {name!r}.") from None

        def made(**arguments: Any) -> Any:
            return self._call(method, path, call, arguments)

        made.__name__ = name
        made.__doc__ = f"{call['summary']} {call.get('description', '')}\n\n{method} {path}"
        return made

    def _call(self, method: str, path: str, call: dict[str, Any], arguments: dict[str, Any]) -> Any:
        given = {name.rstrip("_"): value for name, value in arguments.items()}
        headers, query = {}, {}
        for one in call.get("parameters", ()):
            one = self._parameters[one["$ref"].rpartition("/")[2]] if "$ref" in one else one
            if one["in"] == "path":
                path = path.replace(
                    f"{{{one['name']}}}", urllib.parse.quote(str(given.pop(one["name"])), safe="")
                )
            elif one["in"] == "query" and one["name"] in given:
                query[one["name"]] = given.pop(one["name"])
            elif one["name"] == "Idempotency-Key":
                headers["Idempotency-Key"] = given.pop("idempotency_key", None) or str(uuid.uuid4())
        path += f"?{urllib.parse.urlencode(query)}" if query else ""
        body = json.dumps(given).encode() if given or "requestBody" in call else None
        return self._insist(method, path, body, headers, may_repeat=method != "POST" or bool(headers))

    def _insist(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], *, may_repeat: bool
    ) -> Any:
        for tries in range(1, TRIES + 1):
            is_last = tries == TRIES or not may_repeat
            try:
                status, answer, wait_s = self._ask(method, path, body, headers)
            except (OSError, http.client.HTTPException):
                # Nobody knows whether it was done. The same Idempotency-Key finds out.
                if is_last:
                    raise
                status, answer, wait_s = 503, None, float(tries)
            if status < http.client.BAD_REQUEST:
                return answer
            if status not in AGAIN or is_last:
                raise Problem(status, answer if isinstance(answer, dict) else {})
            time.sleep(min(wait_s or float(tries), WAIT_S_MAX))
        raise AssertionError("the last try returns or raises")

    def _ask(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, Any, float]:
        """(status, decoded answer, after how many seconds to ask again; 0: not said)."""
        request = urllib.request.Request(f"{self._url}{path}", body, headers, method=method)
        request.add_header("Authorization", f"Bearer {self._key}")
        request.add_header("Content-Type", "application/json")
        try:
            answer = urllib.request.urlopen(request, timeout=self._timeout_s)
        except urllib.error.HTTPError as refused:
            answer = refused
        with answer:
            text = answer.read()
            is_json = "json" in answer.headers.get("Content-Type", "")
            decoded = json.loads(text) if is_json and text else text.decode() or None
            return answer.status, decoded, float(answer.headers.get("Retry-After", 0))
