"""The examples of answers on the pages have the fields that a running engine answers with, all of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema_rs
import pytest

from tests.openapi.documented import Documented
from tests.system.client import eventually
from tests.system.conftest import ROOT

PAGES = ("api.md", "recipients.md", "webhooks.md")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What stands above an answer in its block: its status, its headers.
_HEAD = re.compile(r"(?:\d{3} [A-Z][\w ]*\n(?:[\w-]+: .*\n)*\n?)?(?=[{\"])")
# Three dots: more fields, more items, any value.
_MORE = "..."
_DOTS = (
    (re.compile(r"\[\s*\.\.\.\s*\]"), "[]"),
    (re.compile(r"(?<=[,{])\s*\.\.\.\s*(?=[,}])"), f' "{_MORE}": 0'),
    (re.compile(r"(?<=:)\s*\.\.\.(?=\s*[,}])"), f' "{_MORE}"'),
)
# Of one field of a larger answer the block shows the name too.
_FIELD = re.compile(r'"(\w+)": ')
# Examples of what is no answer of a call: a request that the engine makes.
_REQUESTS = {"type", "timestamp", "data"}
EXAMPLES_MIN = 40


def examples(page: str) -> Iterator[tuple[str, Any]]:
    """(where, example) of each answer on a page."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for block in _BLOCK.finditer(text):
        head = _HEAD.match(block[2])
        if block[1] not in ("", "json") or head is None:
            continue
        shown = block[2][head.end() :]
        for pattern, instead in _DOTS:
            shown = pattern.sub(instead, shown)
        if _FIELD.match(shown):
            shown = f'{{{shown}, "{_MORE}": 0}}'
        where, at = f"{page}:{text.count(chr(10), 0, block.start()) + 2}", 0
        while shown[at:].strip():
            at += len(shown[at:]) - len(shown[at:].lstrip())
            example, at = json.JSONDecoder().raw_decode(shown, at)
            yield where, example


class Answers:
    """All answers that an engine's documents describe."""

    def __init__(self, documented: Documented) -> None:
        # (name of the call, schema, the document that it refers to)
        self.found: list[tuple[str, dict[str, Any], Mapping[str, Any]]] = []
        for document in documented.documents.values():
            problem = document["components"]["schemas"]["Problem"]
            self.found.append(("a problem", problem, document))
            for operations in document["paths"].values():
                for of in operations.values():
                    for status, answer in of["responses"].items():
                        content = answer.get("content", {}).get("application/json")
                        if status[0] == "2" and content is not None:
                            self.found.append((of["operationId"], content["schema"], document))

    def nearest(self, example: Any) -> tuple[str, list[str]]:
        """(the call whose answer is most like the example, where it is not)."""
        tried = ((name, list(unlike(schema, example, of))) for name, schema, of in self.found)
        return min(tried, key=lambda one: len(one[1]))


def unlike(
    schema: Mapping[str, Any], example: Any, document: Mapping[str, Any], at: str = ""
) -> Iterator[str]:
    """Where an example is not what the schema says: a field that is not there, or is not shown."""
    if isinstance(example, str) and _MORE in example:
        return
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        yield from unlike(document["components"]["schemas"][name], example, document, at)
    elif "anyOf" in schema:
        yield from min((list(unlike(one, example, document, at)) for one in schema["anyOf"]), key=len)
    elif isinstance(example, dict) and "properties" in schema:
        known = schema["properties"]
        if _MORE not in example:
            yield from (f"{at}.{name} is not shown" for name in known.keys() - example.keys())
        for name, value in example.items():
            if name in known:
                yield from unlike(known[name], value, document, f"{at}.{name}")
            elif name != _MORE:
                yield f"{at}.{name} is not there"
    elif isinstance(example, dict) and isinstance(schema.get("additionalProperties"), dict):
        for name, value in example.items():
            yield from unlike(schema["additionalProperties"], value, document, f"{at}.{name}")
    elif isinstance(example, list) and isinstance(schema.get("items"), dict):
        for value in example:
            yield from unlike(schema["items"], value, document, f"{at}[]")
    else:
        whole = {**schema, "components": document["components"]}
        for error in jsonschema_rs.Draft202012Validator(whole).iter_errors(example):
            yield f"{at}: {error.message}"


def values(example: Any, name: str) -> Iterator[Any]:
    """All values of the fields of this name."""
    if isinstance(example, dict):
        for key, value in example.items():
            if key == name and not isinstance(value, dict | list):
                yield value
            yield from values(value, name)
    elif isinstance(example, list):
        for one in example:
            yield from values(one, name)


def test_the_examples_on_the_pages_are_found() -> None:
    assert sum(1 for page in PAGES for _ in examples(page)) >= EXAMPLES_MIN


@pytest.mark.parametrize("page", PAGES)
def test_each_example_on_a_page_has_the_fields_of_an_answer_and_no_others(
    documented: Documented, page: str
) -> None:
    answers, wrong = Answers(documented), []
    for where, example in examples(page):
        if isinstance(example, dict) and example.keys() == _REQUESTS:
            continue
        name, faults = answers.nearest(example)
        if faults:
            wrong.append(f"{where}, nearest to {name}: {'; '.join(faults)}")
    assert not wrong, "\n" + "\n".join(wrong)


def test_the_formats_and_the_version_of_the_examples_are_those_of_this_engine(documented: Documented) -> None:
    node = eventually(lambda: documented.admin("GET", "/nodes")["nodes"])[0]
    shown = [example for page in PAGES for _, example in examples(page)]
    assert {one for example in shown for one in values(example, "formats")} == {node["formats"]}
    versions = {one for example in shown for one in values(example, "version") if isinstance(one, str)}
    assert versions == {node["version"]}
