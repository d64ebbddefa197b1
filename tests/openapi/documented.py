"""A running engine beside its OpenAPI documents, and things in it to fill their paths with."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, NamedTuple

import jsonschema_rs

from tests.system.client import eventually
from tests.system.conftest import Engine

_NUMBERS = count(1)
GIVEN = {"to": "+4915112345678", "text": "Your code is 123456", "queue": "express"}


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    octets: bytes

    @property
    def body(self) -> Any:
        """The JSON in it; None when there is none."""
        is_json = self.headers.get("Content-Type", "").partition(";")[0].endswith("json")
        return json.loads(self.octets) if is_json and self.octets else None


class Operation(NamedTuple):
    """One call as a document describes it."""

    method: str
    path: str
    of: dict[str, Any]
    is_admin: bool

    def kinds(self) -> dict[str, str]:
        """By parameter of the path, what it names."""
        return {
            one["name"]: one.get("x-names", "")
            for one in self.of.get("parameters", ())
            if one.get("in") == "path"
        }

    def at(self, names: Mapping[str, object]) -> str:
        """Its path with these names in it."""
        return re.sub(r"\{(\w+)\}", lambda name: str(names[name[1]]), self.path)

    def bodies(self) -> dict[str, Any]:
        """The examples of its body, by name; none without a body."""
        content = self.of.get("requestBody", {}).get("content", {}).get("application/json", {})
        return {name: example["value"] for name, example in content.get("examples", {}).items()}

    def scopes(self) -> list[str]:
        """What an API key must be good for; empty: it takes none."""
        return next((list(s["apiKey"]) for s in self.of["security"] if "apiKey" in s), [])


@dataclass(frozen=True)
class Organisation:
    id: int
    api_key: str


@dataclass(frozen=True)
class Documented:
    engine: Engine
    # By address: of the API, and of the admin calls.
    documents: dict[str, dict[str, Any]]
    # Where calls of other gateways are understood; "": nowhere.
    compatible_url: str = ""

    @classmethod
    def of(cls, engine: Engine, compatible_url: str = "") -> Documented:
        urls = (engine.url, engine.admin_url)
        documents = {url: ask("GET", f"{url}/openapi.json").body for url in urls}
        return cls(engine, documents, compatible_url)

    def operations(self) -> Iterator[Operation]:
        for url, document in self.documents.items():
            for path, of in document["paths"].items():
                for method, operation in of.items():
                    yield Operation(method.upper(), path, operation, url == self.engine.admin_url)

    def ask(
        self,
        operation: Operation,
        names: Mapping[str, object],
        body: object = None,
        key: str = "",
        query: str = "",
    ) -> Reply:
        """One call of it, with these names in its path. `key`: "": the admin key, or that of the demo."""
        engine = self.engine
        url = engine.admin_url if operation.is_admin else engine.url
        key = key or (engine.admin_key if operation.is_admin else engine.api_key)
        return ask(operation.method, f"{url}{operation.at(names)}{query}", body, key)

    def admin(self, method: str, path: str, body: object = None) -> Any:
        reply = ask(method, f"{self.engine.admin_url}/v1/admin{path}", body, self.engine.admin_key)
        assert reply.status in (200, 201, 202, 204), (method, path, reply)
        return reply.body

    def public(self, method: str, path: str, body: object, key: str) -> Any:
        reply = ask(method, f"{self.engine.url}{path}", body, key)
        assert reply.status in (200, 201, 202), (method, path, reply)
        return reply.body

    def organisation(self) -> Organisation:
        """One more, with credit."""
        made = self.admin("POST", "/organisations", {"name": f"organisation {next(_NUMBERS)}"})
        top_up = {"units": 1_000_000, "reference": f"first-{next(_NUMBERS)}"}
        self.admin("POST", f"/organisations/{made['id']}/top-ups", top_up)
        key = self.admin("POST", f"/organisations/{made['id']}/keys", {"scopes": ["send", "read", "admin"]})
        return Organisation(made["id"], key["api_key"])

    def fault(self, operation: Operation, reply: Reply) -> str:
        """What of a reply is not as the document says; "" when all is."""
        document = self.documents[self.engine.admin_url if operation.is_admin else self.engine.url]
        answer = operation.of["responses"].get(str(reply.status))
        if answer is None:
            return f"{reply.status} is not in the document: {reply.octets[:300]!r}"
        if "$ref" in answer:
            answer = document["components"]["responses"][answer["$ref"].rpartition("/")[2]]
        for name in answer.get("headers", {}):
            if name not in reply.headers and name not in OPTIONAL_HEADERS:
                return f"{reply.status} lacks the header {name}"
        kind = reply.headers.get("Content-Type", "").partition(";")[0]
        content = {name.partition(";")[0]: of for name, of in answer.get("content", {}).items()}
        if kind not in content and "*/*" not in content and (kind or content):
            return f"{reply.status} has the content type {kind!r}"
        schema = content.get(kind, {}).get("schema")
        if schema and reply.body is not None:
            whole = {**schema, "components": document["components"]}
            for error in jsonschema_rs.Draft202012Validator(whole).iter_errors(reply.body):
                return f"{reply.status}: {error.message} at {list(error.instance_path)}"
        return ""


OPTIONAL_HEADERS = {"Idempotent-Replayed", "RateLimit", "RateLimit-Policy"}


def ask(method: str, url: str, body: object = None, key: str = "", **headers: str) -> Reply:
    """One request and its answer, whatever its status is."""
    octets = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, octets, method=method)
    request.add_header("Content-Type", "application/json")
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    for name, value in headers.items():
        request.add_header(name, value)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return Reply(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as refused:
        with refused:
            return Reply(refused.code, refused.headers, refused.read())


def in_a_day() -> str:
    """The time a day from now, RFC 3339."""
    return (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")


# Makes a thing of an organisation, and gives the name by which a path names it.
Maker = Callable[[Documented, Organisation], object]


def _message(documented: Documented, of: Organisation) -> object:
    # Later, so that it can be canceled.
    later = GIVEN | {"send_at": in_a_day()}
    return documented.public("POST", "/v1/messages", later, of.api_key)["id"]


def _batch(documented: Documented, of: Organisation) -> object:
    later = {"messages": [GIVEN | {"send_at": in_a_day()}]}
    return documented.public("POST", "/v1/messages/batch", later, of.api_key)["batch"]


def _api_key(documented: Documented, of: Organisation) -> object:
    return documented.admin("POST", f"/organisations/{of.id}/keys")["id"]


def _admin_key(documented: Documented, _: Organisation) -> object:
    wish = {"name": f"admin {next(_NUMBERS)}", "scopes": ["read"]}
    return documented.admin("POST", "/admin-keys", wish)["id"]


def _node(documented: Documented, _: Organisation) -> object:
    return eventually(lambda: documented.admin("GET", "/nodes")["nodes"])[0]["name"]


def _opt_out(documented: Documented, of: Organisation) -> object:
    number = f"+4915{next(_NUMBERS):09}"
    documented.public("POST", "/v1/opt-outs", {"numbers": [number]}, of.api_key)
    return number


def _webhook_endpoint(documented: Documented, of: Organisation) -> object:
    """The first, after all that are there, because an organisation has few."""
    found = documented.public("GET", "/v1/webhook-endpoints", None, of.api_key)["webhook_endpoints"]
    if found := [one for one in found if one["url"]]:
        return found[0]["id"]
    wish = {"url": f"http://127.0.0.1:9/{next(_NUMBERS)}"}
    return documented.public("POST", "/v1/webhook-endpoints", wish, of.api_key)["id"]


def _webhook_delivery(documented: Documented, of: Organisation) -> object:
    """Of a test event to an endpoint that nobody listens at."""
    endpoint = _webhook_endpoint(documented, of)

    def kept() -> Any:
        found = documented.public("GET", "/v1/webhook-deliveries", None, of.api_key)["webhook_deliveries"]
        if not found:
            # Also one that was sent before the notifier knew of the endpoint.
            documented.public("POST", f"/v1/webhook-endpoints/{endpoint}/test", None, of.api_key)
        return found

    return eventually(kept)[0]["id"]


# By kind of thing that a path names. One of an organisation's own kinds that is missing fails the test of
# tenancy; of the admin's, calls on it are not tried.
MAKERS: dict[str, Maker] = {
    "message": _message,
    "batch": _batch,
    "organisation": lambda _, of: of.id,
    "api_key": _api_key,
    "admin_key": _admin_key,
    "provider": lambda documented, _: documented.admin("GET", "/providers")["providers"][0]["name"],
    "node": _node,
    "queue": lambda *_: "normal",
    "opt_out": _opt_out,
    "webhook_endpoint": _webhook_endpoint,
    "webhook_delivery": _webhook_delivery,
}
