"""Each field and parameter of each call is given what it cannot take: every answer is plain, none a fault.

On an engine of its own: prices, routes and limits that are taken all the same would stay for other tests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.openapi.documented import MAKERS, Documented, Operation, Reply
from tests.system.conftest import start_engine

# As JSON, so that a number may be one that Python does not write.
BAD = {
    "null": "null",
    "true": "true",
    "a number": "7",
    "zero": "0",
    "negative": "-1",
    "a fraction": "0.5",
    "beyond 64 bits": str(2**63),
    "beyond floats": "1e400",
    "many digits": "9" * 5000,
    "not a number": "NaN",
    "empty": '""',
    "blank": '" "',
    "control": r'"\u0000\u0007\n"',
    "half a pair": r'"\ud800"',
    "unicode digit": '"٣"',
    "text": '"x"',
    "long": json.dumps("x" * 20_000),
    "first time": '"0001-01-01T00:00:00Z"',
    "last time": '"9999-12-31T23:59:59Z"',
    "no time": '"2026-02-30T25:00:00Z"',
    "empty list": "[]",
    "list of empty": '[""]',
    "list of null": "[null]",
    "list twice": '["x", "x"]',
    "empty object": "{}",
    "object": '{"x": 1}',
}
# As the text of a parameter.
BAD_TEXTS = (
    "", "%20", "%00", "%FF", "x", "-1", "0", "0.5", "1e400", "NaN", str(2**63), "9" * 5000, "x" * 5000,
    quote("٣"), "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-02-30T25:00:00Z", "true", "%0A",
    "a%2Cb%2C",
)  # fmt: skip
# What would end what the others are tried on, or goes on without an end.
LEFT_OUT = {"/v1/admin/nodes/{name}/drain"}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Documented]:
    engine = start_engine(tmp_path_factory.mktemp("swept") / "data")
    try:
        yield Documented.of(engine)
        assert engine.stop() == 0, engine.log.read_text()[-3000:]
    finally:
        engine.kill()


def wrong_in(documented: Documented, operation: Operation, reply: Reply) -> str:
    """What of an answer to something that is wrong is not plain; "" when all is."""
    if reply.status >= 500:
        return f"{reply.status}: {reply.octets[:300]!r}"
    if fault := documented.fault(operation, reply):
        return fault
    if reply.status in (400, 422):
        detail = reply.body["detail"]
        if not detail.endswith(".") or len(detail) > 1000 or not detail.isprintable():
            return f"not a sentence: {detail[:300]!r}"
        if reply.status == 422 and "field" not in reply.body:
            return f"no field is named: {detail!r}"
    return ""


def calls(documented: Documented) -> Iterator[tuple[Operation, dict[str, object]]]:
    """All calls of which each thing in the path can be made, with the names of such things."""
    of = documented.organisation()
    made: dict[str, object] = {}
    for operation in documented.operations():
        kinds = operation.kinds()
        if operation.path in LEFT_OUT or not {*kinds.values()} <= {*MAKERS}:
            continue
        for kind in kinds.values():
            if kind not in made:
                made[kind] = MAKERS[kind](documented, of)
        yield operation, {name: made[kind] for name, kind in kinds.items()}


def bodies(example: dict[str, Any]) -> Iterator[tuple[str, str, bytes]]:
    """The example with each of its fields wrong in turn: (the field, how, the body)."""
    for field in example:
        rest = {name: value for name, value in example.items() if name != field}
        before = json.dumps(rest)[:-1] + (", " if rest else "")
        for how, value in BAD.items():
            yield field, how, f"{before}{json.dumps(field)}: {value}}}".encode()
        twice = f"{json.dumps(field)}: {json.dumps(example[field])}"
        yield field, "twice", f"{before}{twice}, {twice}}}".encode()


def test_no_field_of_a_body_ends_in_a_fault(swept: Documented) -> None:
    wrong, asked = [], 0
    for operation, names in calls(swept):
        whole: dict[str, Any] = {}
        for example in operation.bodies().values():
            whole = example if isinstance(example, dict) and len(example) > len(whole) else whole
        for field, how, body in bodies(whole):
            asked += 1
            reply = swept.ask(operation, names, body)
            if fault := wrong_in(swept, operation, reply):
                wrong.append((operation.method, operation.path, field, how, fault))
    assert asked > 1000
    assert wrong == []


def test_no_parameter_of_a_query_ends_in_a_fault(swept: Documented) -> None:
    wrong, asked = [], 0
    for operation, names in calls(swept):
        if operation.method != "GET":
            continue
        known = [one["name"] for one in operation.of.get("parameters", ()) if one.get("in") == "query"]
        queries = [f"?{name}={text}" for name in known for text in BAD_TEXTS]
        queries += [f"?{name}=1&{name}=2" for name in known] + ["?unknown=1"]
        for query in queries:
            asked += 1
            if fault := wrong_in(swept, operation, swept.ask(operation, names, query=query)):
                wrong.append((operation.path, query[:80], fault))
    assert asked > 500
    assert wrong == []
