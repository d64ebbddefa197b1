"""The OpenAPI document and its page, as every process serves them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from engine.api.app import create_admin_app, create_app
from engine.api.problem_codes import PROBLEM_CODES
from engine.stores.postgres.directory import Directory
from tests.api.world import Api, services_with

ROOT = Path(__file__).resolve().parents[2]
ADVICE = (
    "it is not in /openapi.json: write `@described(...)` above its action, with a name, a sentence, its "
    "parameters, the Shape of its body, its answers and its problem codes (engine/api/description.py)."
)


def answered(app: web.Application) -> Iterator[tuple[str, str]]:
    """(method, path) of every call."""
    for route in app.router.routes():
        if route.method not in ("*", "HEAD") and route.resource is not None:
            yield route.method, route.resource.canonical


async def document_of(api: Api) -> dict[str, Any]:
    status, headers, document = await api.ask("GET", "/openapi.json", key="")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    return dict(document)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, of in document["paths"].items():
        for method, operation in of.items():
            yield method.upper(), path, operation


def fields_of(document: dict[str, Any], operation: dict[str, Any]) -> dict[str, Any]:
    """The fields of the body; none without a body."""
    if "requestBody" not in operation:
        return {}
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    schema = schema["anyOf"][0] if "anyOf" in schema else schema
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return dict(schema.get("properties", {}))


async def test_every_call_is_described(api: Api, directory: Directory) -> None:
    described = {(method, path) for method, path, _ in operations(await document_of(api))}
    services = await services_with(directory)
    assert services.admin is not None
    calls = {*answered(create_app(services)), *answered(create_admin_app(services.admin))}
    assert len(calls) > 50
    missing = sorted(f"{method} {path}: {ADVICE}" for method, path in calls - described)
    assert not missing, "\n".join(missing)
    assert described == calls


async def test_the_names_of_calls_are_different_and_every_body_has_an_example(api: Api) -> None:
    document = await document_of(api)
    found = list(operations(document))
    names = [operation["operationId"] for _, _, operation in found]
    assert len(set(names)) == len(names)
    lacking = [
        f"{method} {path}: give `described` a body that is accepted as `examples`."
        for method, path, operation in found
        if fields_of(document, operation)
        and "examples" not in operation["requestBody"]["content"]["application/json"]
    ]
    assert not lacking, "\n".join(lacking)


async def test_every_parameter_of_a_path_is_described_and_nothing_else(api: Api) -> None:
    for method, path, operation in operations(await document_of(api)):
        named = {one["name"] for one in operation.get("parameters", ()) if one.get("in") == "path"}
        assert named == set(re.findall(r"\{(\w+)\}", path)), f"{method} {path}"


async def test_every_field_that_a_body_may_have_has_a_sentence(api: Api) -> None:
    document = await document_of(api)
    for method, path, operation in operations(document):
        for name, field in fields_of(document, operation).items():
            assert field.get("description"), f"{method} {path}: `{name}` is not in the Shape of the body."


def refusals() -> Iterator[tuple[str, str, int]]:
    """(where, code, status) of every refusal that the engine makes."""
    for path in sorted((ROOT / "engine").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (
                isinstance(node, ast.Call) and ast.unparse(node.func) in ("Refusal", "TooMany", "Closed")
            ):
                continue
            status = {"TooMany": 429, "Closed": 503}.get(ast.unparse(node.func))
            constants = [one.value for one in node.args[:2] if isinstance(one, ast.Constant)]
            if constants and isinstance(constants[0], str):
                if status is None and len(constants) > 1 and isinstance(constants[1], int):
                    status = constants[1]
                if status is not None:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", constants[0], status


def test_every_code_of_a_problem_is_declared_and_on_the_page() -> None:
    found = list(refusals())
    assert len(found) > 40
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    table = page.partition("| status | code | when |")[2].partition("## ")[0]
    on_page = {
        (code, int(row[2:5])) for row in table.splitlines() if row[2:5].isdecimal()
        for code in re.findall(r"`(\w+)`", row.split("|")[2])
    }  # fmt: skip
    declared = {(code, of.status) for code, of in PROBLEM_CODES.items()}
    wrong = [
        f"{where}: add `{code}` with {status} to PROBLEM_CODES in engine/api/problem_codes.py."
        for where, code, status in found
        if (code, status) not in declared
    ]
    wrong += [
        f"docs/api.md: the table of errors lacks `{code}` ({status})." for code, status in declared - on_page
    ]
    wrong += [f"docs/api.md: no code `{code}` ({status}) is declared." for code, status in on_page - declared]
    assert not wrong, "\n".join(wrong)


async def test_the_document_is_kept_and_told_apart_by_its_tag(api: Api) -> None:
    for path in ("/openapi.json", "/docs"):
        url = f"http://127.0.0.1:{api.port}{path}"
        async with api.session.get(url) as first:
            assert first.status == 200
            body, tag = await first.read(), first.headers["ETag"]
        async with api.session.get(url, headers={"If-None-Match": tag}) as again:
            assert (again.status, await again.read(), again.headers["ETag"]) == (304, b"", tag)
        async with api.session.get(url, headers={"If-None-Match": '"other"'}) as other:
            assert (other.status, await other.read()) == (200, body)


class Links(HTMLParser):
    """What a page would load or run, where its links within lead, and its anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.within: set[str] = set()
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = dict(attrs)
        if tag in ("script", "link", "img", "iframe") or "src" in of:
            self.loaded.append(str(attrs))
        if (href := of.get("href") or "").startswith("#"):
            self.within.add(href[1:])
        elif href not in ("", "/openapi.json"):
            self.loaded.append(href)
        if of.get("id"):
            self.ids.add(str(of["id"]))


async def test_the_page_has_every_call_and_loads_nothing(api: Api) -> None:
    document = await document_of(api)
    async with api.session.get(f"http://127.0.0.1:{api.port}/docs") as answer:
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        text = await answer.text()
    links = Links()
    links.feed(text)
    assert not links.loaded
    assert links.within == links.ids == {operation["operationId"] for _, _, operation in operations(document)}


@pytest.mark.parametrize("served", ["public", "admin"])
async def test_each_address_describes_what_it_answers(directory: Directory, served: str) -> None:
    """The admin calls are in the document of the public API only where it answers them."""
    services = await services_with(directory)
    assert services.admin is not None
    app = (
        create_app(replace(services, admin=None)) if served == "public" else create_admin_app(services.admin)
    )
    paths = {path for _, path in answered(app)}
    assert any(path.startswith("/v1/admin") for path in paths) is (served == "admin")
    assert {"/openapi.json", "/docs"} <= paths
