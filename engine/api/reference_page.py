"""The OpenAPI document as one page of HTML. It has no script, loads nothing, and prints well."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

# The page is its own style, and asks for nothing else.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
)

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8881;--mark:#0a6cbd}
@media (prefers-color-scheme:dark){:root{--mark:#6cb6ff}}
*{box-sizing:border-box}
body{margin:0;font:15px/1.5 system-ui,sans-serif;display:grid;grid-template-columns:19rem minmax(0,1fr)}
nav{position:sticky;top:0;height:100vh;overflow:auto;padding:1rem;font-size:13px}
nav{border-right:1px solid var(--line)}
nav b{display:block;margin-top:.8rem}
nav a{display:block;padding:1px 0;overflow-wrap:anywhere}
a{color:var(--mark);text-decoration:none}a:hover{text-decoration:underline}
main{padding:1rem 2rem;max-width:62rem}
section{border-top:1px solid var(--line);padding:.5rem 0 1rem}
h1{margin:.2rem 0}
h2{font-size:1.05rem;margin:.6rem 0 .2rem;overflow-wrap:anywhere}
h3{font-size:.9rem;margin:.8rem 0 .2rem}
h2 i{font-style:normal;color:var(--mark);margin-right:.5rem}
code,pre{font:13px/1.45 ui-monospace,monospace}
pre{background:var(--soft);padding:.6rem;overflow:auto;border-radius:4px;margin:.3rem 0}
table{border-collapse:collapse;width:100%}
td{border-top:1px solid var(--line);padding:.25rem .6rem .25rem 0;vertical-align:top}
td:first-child{width:11rem}td:nth-child(2){width:13rem}
summary{cursor:pointer}details{margin:.2rem 0}details details{margin-left:1rem}
@media (max-width:50rem){body{display:block}nav{position:static;height:auto;border:0}}
@media print{nav{display:none}body{display:block}details{display:block}}
"""
_CODE = re.compile(r"`([^`]+)`")
# Records within records are written out so deep.
_DEPTH_MAX = 6


def page(document: Mapping[str, Any]) -> str:
    """The page of an OpenAPI document, as `engine.api.openapi.document` makes it."""
    calls = [(method, path, call) for path, of in document["paths"].items() for method, call in of.items()]
    title = f"{document['info']['title']} API"
    sections = "".join(_call(document, *call) for call in calls)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
        f"<nav><a href=/openapi.json>openapi.json</a>{_contents(document, calls)}</nav>"
        f"<main><h1>{escape(title)}</h1><p>Version {escape(document['info']['version'])}.</p>"
        f"<p>{_text(document['info']['description'])}</p>{_keys(document)}{sections}</main></html>"
    )


def _contents(document: Mapping[str, Any], calls: list[tuple[str, str, Any]]) -> str:
    shown = []
    for tag in (tag["name"] for tag in document["tags"]):
        links = "".join(
            f'<a href="#{call["operationId"]}" title="{escape(call["summary"])}">'
            f"{method.upper()} {escape(path)}</a>"
            for method, path, call in calls
            if tag in call["tags"]
        )
        shown.append(f"<b>{escape(tag)}</b>{links}")
    return "".join(shown)


def _keys(document: Mapping[str, Any]) -> str:
    schemes = document["components"]["securitySchemes"].values()
    return "".join(
        f"<p><code>Authorization: Bearer</code> {_text(scheme['description'])}</p>" for scheme in schemes
    )


def _call(document: Mapping[str, Any], method: str, path: str, call: Mapping[str, Any]) -> str:
    parts = [f'<section id="{call["operationId"]}"><h2><i>{method.upper()}</i>{escape(path)}</h2>']
    parts.append(f"<p>{_text(call['summary'])} {_text(call.get('description', ''))}</p>")
    parts.append(f"<p>{_who(call)}</p>")
    if parameters := [_resolved(document, one) for one in call.get("parameters", ())]:
        parts.append("<h3>Parameters</h3>" + _table(
            (one["name"], f"{_kind(document, one['schema'])}, {one['in']}", _text(one["description"]))
            for one in parameters
        ))  # fmt: skip
    if body := call.get("requestBody"):
        content = body["content"]["application/json"]
        optional = "" if body.get("required") else ", may be left out"
        parts.append(f"<h3>Body{optional}</h3>{_fields(document, content['schema'])}")
        parts += [_curl(method, path, one["value"]) for one in content.get("examples", {}).values()]
    parts.append("<h3>Answers</h3>")
    parts += [_answer(document, status, answer) for status, answer in call["responses"].items()]
    return "".join(parts) + "</section>"


def _who(call: Mapping[str, Any]) -> str:
    whose, ways = "", []
    for security in call["security"]:
        for scheme, scopes in security.items():
            whose = "an admin key" if scheme == "adminKey" else "an API key"
            ways.append(" and ".join(f"<code>{escape(scope)}</code>" for scope in scopes))
    return f"Needs {whose} with the scope {', or '.join(ways)}." if ways else "Needs no key."


def _curl(method: str, path: str, body: object) -> str:
    text = json.dumps(body, ensure_ascii=False)
    verb = "" if method == "post" else f" -X {method.upper()}"
    line = f"curl{verb} $URL{path} -H \"Authorization: Bearer $KEY\" \\\n  -d '{text}'"
    return f"<pre>{escape(line)}</pre>"


def _answer(document: Mapping[str, Any], status: str, answer: Mapping[str, Any]) -> str:
    is_problem = "$ref" in answer
    answer = _resolved(document, answer)
    if is_problem:
        codes = "<br>".join(_text(line.removeprefix("- ")) for line in answer["description"].splitlines())
        return f"<details><summary><code>{status}</code> problem</summary>{codes}</details>"
    shown = ""
    for kind, content in answer.get("content", {}).items():
        if kind == "application/problem+json":
            continue
        shown += _fields(document, content.get("schema", {}))
        if "example" in content:
            shown += f"<pre>{escape(json.dumps(content['example'], ensure_ascii=False, indent=1))}</pre>"
    summary = f"<summary><code>{status}</code> {_text(answer['description'])}</summary>"
    return (
        f"<details open>{summary}{shown}</details>"
        if shown
        else f"<p><code>{status}</code> {_text(answer['description'])}</p>"
    )


def _fields(document: Mapping[str, Any], schema: Mapping[str, Any], depth: int = 0) -> str:
    """The fields of an object, and of the objects in them."""
    schema = _object_in(document, schema)
    properties = schema.get("properties", {})
    if not properties or depth > _DEPTH_MAX:
        return ""
    needed = set(schema.get("required", ())) if schema.get("additionalProperties") is False else set()
    rows = []
    for name, of in properties.items():
        kind = _kind(document, of) + (", required" if name in needed else "")
        rows.append((name, kind, _text(of.get("description", "")) + _within(document, of, depth)))
    return _table(iter(rows))


def _within(document: Mapping[str, Any], schema: Mapping[str, Any], depth: int) -> str:
    inner = _fields(document, schema, depth + 1)
    return f"<details><summary>fields</summary>{inner}</details>" if inner else ""


def _object_in(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The object that a schema is, or is a list of, or has beside null."""
    schema = _resolved(document, schema)
    for one in schema.get("anyOf", ()):
        if (found := _object_in(document, one)).get("properties"):
            return found
    return _object_in(document, schema["items"]) if "items" in schema else schema


def _kind(document: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """What a value is, in a few words."""
    schema = _resolved(document, schema)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(document, one) for one in schema["anyOf"]))
    if "enum" in schema:
        return " | ".join(escape(json.dumps(one)) for one in schema["enum"])
    if schema.get("type") == "array":
        return f"array of {_kind(document, schema.get('items', {}))}"
    least, most = schema.get("minimum"), schema.get("maximum")
    bounds = (
        f" {'' if least is None else least}…{'' if most is None else most}"
        if (least, most) != (None, None)
        else ""
    )
    return escape(str(schema.get("format") or schema.get("type", "any"))) + bounds


def _table(rows: Iterator[tuple[str, str, str]]) -> str:
    cells = "".join(f"<tr><td><code>{escape(a)}</code><td>{b}<td>{c}" for a, b, c in rows)
    return f"<table>{cells}</table>"


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Any = schema
    while "$ref" in found:
        at: Any = document
        for word in found["$ref"].removeprefix("#/").split("/"):
            at = at[word]
        found = {**at, **{key: value for key, value in found.items() if key != "$ref"}}
    return found  # type: ignore[no-any-return]


def _text(sentence: str) -> str:
    return _CODE.sub(r"<code>\1</code>", escape(sentence, quote=False))
