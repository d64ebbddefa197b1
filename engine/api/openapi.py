"""The OpenAPI 3.1 document of the API, from the tables of routes and the records that they decode and encode.

What is said of one call stands beside its action (`engine.api.description`). Here it is joined with what all
calls of its kind have: the key, the headers, and the problems of a request with a body, a parameter or a key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

import engine
from engine.admin_keys import Scope
from engine.api.description import Answer, Description, Parameter
from engine.api.parameters import ORGANISATION
from engine.api.problem_codes import PROBLEM_CODES
from engine.api.problems import Problem
from engine.api.schemas import Schemas

_ABOUT = (
    "JSON over HTTP/1.1 in UTF-8. Times are RFC 3339 in UTC, amounts are whole units of credit. Fields that "
    "are not listed are refused; an optional field that is null is as if it were absent. Every error is a "
    "problem document (RFC 9457): `code` is stable and meant for programs, `detail` is one sentence for "
    "people, `field` names the part of the request that is wrong. Every `GET` also answers `HEAD`."
)
_HEADERS = {
    "X-Request-Id": "Names the request; that of the request, when it brought one.",
    "Retry-After": "After so many seconds the request may be sent again.",
    "Idempotent-Replayed": "`true`: this is the first answer to the Idempotency-Key again.",
    "RateLimit": "What is left of a limit, and in how many seconds there is more.",
    "RateLimit-Policy": "The limit, by its name.",
    "WWW-Authenticate": "How to bring a key.",
}
_OF_STATUS = {
    202: ["Idempotent-Replayed"],
    401: ["WWW-Authenticate"],
    429: ["Retry-After", "RateLimit", "RateLimit-Policy"],
    503: ["Retry-After"],
}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key with the same request gets the first answer again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[ -~]+$"},
}


class Call(NamedTuple):
    """One call that is answered."""

    method: str
    path: str
    # None: nobody has described it yet, and it is left out.
    description: Description | None
    # What an admin key must be good for; None: it is no admin call.
    admin_scope: Scope | None = None


def document(calls: Iterable[Call]) -> dict[str, Any]:
    """The document of these calls, to be encoded as JSON."""
    known = [_of_operators(call, call.description) for call in calls if call.description is not None]
    schemas = _schemas([description for _, description in known])
    responses: dict[str, Any] = {}
    paths: dict[str, dict[str, Any]] = {}
    for call, description in known:
        of = paths.setdefault(call.path, {})
        operation = _operation(call, description, schemas, responses)
        if any(one["operationId"] == description.name for one in of.values()):
            # The same action answers several methods.
            operation["operationId"] += f"_by_{call.method.lower()}"
        of[call.method.lower()] = operation
    tags = dict.fromkeys(_tag(path) for path in paths)
    return {
        "openapi": "3.1.0",
        "info": {"title": "smsengine", "version": engine.__version__, "description": _ABOUT},
        "tags": [{"name": tag} for tag in tags],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": responses,
            "parameters": {"IdempotencyKey": _IDEMPOTENCY_KEY},
            "headers": {
                name: {"description": means, "schema": {"type": "string"}} for name, means in _HEADERS.items()
            },
            "securitySchemes": {
                "apiKey": _bearer("An API key of an organisation, `smse_...`."),
                "adminKey": _bearer("An admin key, `smsa_...`, or that of the configuration."),
            },
        },
    }


def problem_codes_of(call: Call, description: Description) -> dict[int, list[str]]:
    """By HTTP status, the codes of the problems that the call may be answered with."""
    codes = ["invalid_request", *description.codes, "internal", "unavailable", "timeout"]
    if description.path:
        codes.append("not_found")
    if not description.any_query:
        codes.append("invalid_field")
    if description.scope or call.admin_scope is not None:
        codes += ["unauthorised", "scope_missing", "network_not_allowed"]
    if call.method not in ("GET", "DELETE"):
        codes += ["invalid_json", "invalid_body", "body_timeout", "body_too_large", "expectation_failed"]
        codes += ["invalid_field", "invalid_text"]
    if description.once:
        codes += ["invalid_idempotency_key", "idempotency_key_reused", "idempotency_key_used"]
    found: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        found.setdefault(PROBLEM_CODES[code].status, []).append(code)
    return dict(sorted(found.items()))


def _schemas(descriptions: Sequence[Description]) -> Schemas:
    given = [answer for d in descriptions for answer in d.answers.values() if answer.record is not None]
    answers = [record for a in given for record in (a.record, *(i for of in a.items.values() for i in of))]
    shapes = [d.body for d in descriptions if d.body is not None]
    shapes += [part for d in descriptions for part in d.parts.values()]
    return Schemas([Problem, *answers], list(dict.fromkeys(shapes)))


def _operation(
    call: Call, description: Description, schemas: Schemas, responses: dict[str, Any]
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": description.name,
        "summary": description.summary,
        "tags": [_tag(call.path)],
        "security": _security(call, description),
    }
    if description.more:
        operation["description"] = description.more
    parameters = [_parameter(name, of, "path") for name, of in description.path.items()]
    parameters += [_parameter(name, of, "query") for name, of in description.query.items()]
    if description.once:
        parameters.append({"$ref": "#/components/parameters/IdempotencyKey"})
    if parameters:
        operation["parameters"] = parameters
    if description.body is not None:
        operation["requestBody"] = _request_body(description, schemas)
    answers = {
        str(status): _answer(status, answer, schemas) for status, answer in description.answers.items()
    }
    for status, codes in problem_codes_of(call, description).items():
        name = f"{status}.{'.'.join(codes)}"
        problem = responses[name] = _problem(status, codes, schemas)
        if (answer := answers.get(str(status))) is not None:
            answer["content"] = answer.get("content", {}) | problem["content"]
        else:
            answers[str(status)] = {"$ref": f"#/components/responses/{name}"}
    operation["responses"] = dict(sorted(answers.items()))
    return operation


def _of_operators(call: Call, description: Description) -> tuple[Call, Description]:
    """A call of organisations on their own that operators have for any of them, as theirs."""
    if call.admin_scope is None or not description.scope:
        return call, description
    path = ORGANISATION | dict(description.path)
    return call, description._replace(name=f"{description.name}_of_organisation", scope="", path=path)


def _security(call: Call, description: Description) -> list[dict[str, list[str]]]:
    if call.admin_scope is not None:
        return [{"adminKey": [call.admin_scope]}]
    ways = description.scope.split("|") if description.scope else []
    if ways == ["read"]:
        ways.append("admin")
    return [{"apiKey": way.split()} for way in ways]


def _parameter(name: str, of: Parameter, place: str) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": name, "in": place, "description": of.means, "schema": of.schema}
    if place == "path":
        shown["required"] = True
        if of.kind:
            shown["x-names"] = of.kind
    else:
        # An empty value is as if it were absent.
        shown["allowEmptyValue"] = True
    return shown


def _request_body(description: Description, schemas: Schemas) -> dict[str, Any]:
    assert description.body is not None
    schema = schemas.body(description.body, description.parts, description.limits)
    content: dict[str, Any] = {
        "schema": {"anyOf": [schema, {"type": "null"}]} if description.is_body_optional else schema
    }
    if description.examples:
        content["examples"] = {name: {"value": value} for name, value in description.examples.items()}
    required = {} if description.is_body_optional else {"required": True}
    return {"content": {"application/json": content}, **required}


def _answer(status: int, answer: Answer, schemas: Schemas) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "description": answer.means or HTTPStatus(status).phrase,
        "headers": _headers(status),
    }
    if answer.record is not None:
        content: dict[str, Any] = {"schema": schemas.answer(answer.record, answer.items)}
        if answer.example is not None:
            content["example"] = answer.example
        shown["content"] = dict.fromkeys(answer.content_type.split(", "), content)
    elif answer.content_type != Answer(None).content_type:
        shown["content"] = {answer.content_type: {}}
    return shown


def _problem(status: int, codes: Sequence[str], schemas: Schemas) -> dict[str, Any]:
    sentences = [f"- `{code}`: {PROBLEM_CODES[code].when}" for code in codes]
    schema = {
        "allOf": [
            schemas.of(Problem),
            {"properties": {"code": {"enum": list(codes)}, "status": {"const": status}}},
        ]
    }
    return {
        "description": "\n".join(sentences),
        "headers": _headers(status),
        "content": {"application/problem+json": {"schema": schema}},
    }


def _headers(status: int) -> dict[str, Any]:
    names = ["X-Request-Id", *_OF_STATUS.get(status, ())]
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _bearer(means: str) -> dict[str, str]:
    return {"type": "http", "scheme": "bearer", "description": means}


def _tag(path: str) -> str:
    """What the call is about: the first word of its path behind the version and the door."""
    parts = [part for part in path.split("/") if part and part not in ("v1", "admin")]
    return parts[0]
