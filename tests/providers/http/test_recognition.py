"""What carriers' answers mean: no sockets."""

from __future__ import annotations

import json
import time
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.providers.http.json_path import find, find_all, parse_path, word
from engine.providers.http.recognition import AnswerTable, Recognised, Recognition, kind_of_status
from engine.providers.http.source import TEXT_CHARACTERS_MAX, linear
from engine.providers.http.tables import decoded

WHERE = "providers.acme.answer"


def recognition(**table: Any) -> Recognition:
    return Recognition(decoded(table, AnswerTable, WHERE), WHERE)


class Short(NamedTuple):
    kind: str
    id: str
    code: str


def whole(
    status: int, body: object = b"", headers: dict[bytes, bytes] | None = None, **table: Any
) -> Recognised:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return recognition(**table).recognise(status, headers or {}, data, "own-id")


def recognised(
    status: int, body: object = b"", headers: dict[bytes, bytes] | None = None, **table: Any
) -> Short:
    return Short(*whole(status, body, headers, **table)[:3])


# -- without rules


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, "accepted"), (201, "accepted"), (202, "accepted"), (204, "accepted"), (299, "accepted"),
        (301, "temporary"), (304, "temporary"), (307, "temporary"),
        (400, "permanent"), (403, "permanent"), (404, "permanent"), (422, "permanent"), (499, "permanent"),
        (401, "temporary"), (402, "temporary"), (407, "temporary"), (408, "temporary"), (429, "throttled"),
        (500, "temporary"), (502, "temporary"), (503, "temporary"), (599, "temporary"),
    ],
)  # fmt: skip
def test_the_status_decides_when_no_rule_does(status: int, kind: str) -> None:
    assert recognised(status, {"code": "E1"}, code="json:code") == (kind, "", "E1")
    assert kind_of_status(status) == kind


# -- refusals in foreign words

PAGE = b"<!DOCTYPE html>\n<html><head><title>403 Forbidden</title></head></html>"
PAGES = [
    PAGE, b"\xef\xbb\xbf  <HTML>no</HTML>", b"<!-- x --><html>", b"<center><h1>405</h1></center>",
    b"<br />\n<b>Warning</b>: mysql", b"", b" \r\n",
]  # fmt: skip
JSON_TABLE = {"id": "json:id", "code": "json:code"}
TEXT_TABLE = {"id": "text:ID=(.*)", "code": "text:^[^:]*"}
REFUSALS = [400, 403, 404, 405, 406, 407, 409, 410, 411, 413, 414, 415, 417, 421, 422, 426, 431, 451, 499]


@pytest.mark.parametrize("status", REFUSALS)
@pytest.mark.parametrize("table", [{}, JSON_TABLE, TEXT_TABLE, {"code": "header:x-code"}])
def test_somebody_elses_refusal_says_nothing_about_the_message(status: int, table: dict[str, Any]) -> None:
    for page in PAGES:
        assert whole(status, page, **table) == ("temporary", "", str(status), True)


@pytest.mark.parametrize("status", [300, 301, 302, 307, 308, 401, 402, 408, 500, 502, 503, 504, 520])
def test_what_is_temporary_anyhow_is_told_apart_too(status: int) -> None:
    for page in PAGES:
        assert whole(status, page, **JSON_TABLE) == ("temporary", "", str(status), True)
    assert whole(status, {"error": "x"}, **JSON_TABLE).foreign == (status < 400)
    assert whole(status, {"code": "x"}, **JSON_TABLE) == ("temporary", "", "x", False)


@pytest.mark.parametrize("status", REFUSALS)
def test_without_a_code_only_some_statuses_are_about_the_message(status: int) -> None:
    about_it = status in (400, 409, 422)
    expected = ("permanent", "", str(status), False) if about_it else ("temporary", "", str(status), True)
    if status != 407:
        assert whole(status, {"message": "Forbidden"}, **JSON_TABLE) == expected
        assert whole(status, [{"message": "Forbidden"}], **JSON_TABLE) == expected
        assert whole(status, b"rejected", id="text:ID=(.*)") == expected
        assert whole(status, b"rejected") == expected
    # A text is no answer of a provider that speaks JSON.
    assert whole(status, b"Forbidden", **JSON_TABLE) == ("temporary", "", str(status), True)
    assert whole(status, b'"Forbidden"', **JSON_TABLE).foreign


def test_the_code_may_stand_in_a_header_beside_a_page() -> None:
    assert whole(403, PAGE, {b"x-code": b"E1"}, code="header:x-code") == ("permanent", "", "E1", False)


def test_a_rule_makes_any_words_the_providers_own() -> None:
    assert whole(403, PAGE, permanent={"status": [403]}) == ("permanent", "", "403", False)
    assert whole(404, b"", temporary={"status": [404]}) == ("temporary", "", "404", False)
    answer = b"<html><body>ERR 7</body></html>"
    assert whole(200, answer, code="text:ERR ([0-9]+)", permanent={"code": [7]}) == (
        "permanent",
        "",
        "7",
        False,
    )


@pytest.mark.parametrize("table", [{}, {"id": "own"}, {"id": "json:id", "id_required": False}, TEXT_TABLE])
def test_a_page_of_200_takes_no_message(table: dict[str, Any]) -> None:
    assert recognised(200, PAGE, **table).kind == "unknown"
    assert recognised(200, PAGE, **{**table, "accepted": {"text": "^OK"}}).kind == "unknown"
    assert recognised(200, PAGE, **{**table, "id": "", "accepted": {"text": "403"}}).kind == "accepted"


# -- rules


def test_an_answer_of_200_that_says_no_in_its_body() -> None:
    table: dict[str, Any] = {
        "id": "json:messages.0.message-id",
        "code": "json:messages.0.status",
        "accepted": {"code": [0]},
        "throttled": {"code": [1]},
        "temporary": {"code": ["5", 10]},
    }

    def of(code: object) -> tuple[str, str]:
        found = recognised(200, {"messages": [{"status": code, "message-id": "m1"}]}, **table)
        return found.kind, found.code

    assert recognised(200, {"messages": [{"status": "0", "message-id": "m1"}]}, **table) == (
        "accepted",
        "m1",
        "0",
    )
    assert [of("1"), of(5), of("10"), of("6")] == [
        ("throttled", "1"), ("temporary", "5"), ("temporary", "10"), ("permanent", "6"),
    ]  # fmt: skip
    assert (
        recognised(200, {"messages": [{"status": "6"}]}, otherwise="temporary", **table).kind == "temporary"
    )


@pytest.mark.parametrize(
    "body", [b"", b"<html>busy</html>", b"[]", b"{}", b"null", b'{"id":{}}', b'{"id":""}', b"\xff\xfe",
             b"[" * 5000, b'{"id":"' + b"x" * 300 + b'"}'],
)  # fmt: skip
def test_a_2xx_without_the_id_that_it_should_have_is_unknown(body: bytes) -> None:
    assert recognised(200, body, id="json:id") == ("unknown", "", "no-id")
    kind = "unknown" if b"html" in body else "accepted"
    assert recognised(200, body, id="json:id", id_required=False) == (kind, "", "200")
    assert recognised(500, body, id="json:id") == ("temporary", "", "500")


def test_an_answer_behind_a_warning_of_php_is_no_page() -> None:
    warning = b"<br />\n<b>Warning</b>:  x in <b>/y.php</b> on line <b>1</b><br />\n"
    assert recognised(200, warning + b'{"ok": 1}', id="json:id", id_required=False).kind == "accepted"
    assert recognised(200, warning + b"<p>ok</p>", id="json:id", id_required=False).kind == "unknown"
    assert whole(400, warning + b'{"error": "x"}', **JSON_TABLE) == ("permanent", "", "400", False)


@pytest.mark.parametrize(
    "octets", [b'{"a":"' + b'\\"' * 200_000, b"<b>Warning</b>: " * 30_000, b"{,}" * 100_000]
)
def test_what_is_long_and_wrong_is_given_up_soon(octets: bytes) -> None:
    assert recognised(200, octets, id="json:id") == ("unknown", "", "no-id")


@pytest.mark.parametrize("body", [b"", b"<html>busy</html>", b'{"other": 1}', b"[1]"])
def test_a_2xx_that_no_rule_understands_is_unknown(body: bytes) -> None:
    assert recognised(200, body, code="json:status", accepted={"code": [0]}) == ("unknown", "", "200")
    assert recognised(200, body, accepted={"text": "^OK"}) == ("unknown", "", "200")


def test_all_of_a_condition_must_hold_and_one_of_several_is_enough() -> None:
    both = {"status": [202], "text": "^0:"}
    assert recognised(202, b"0: Accepted", accepted=both).kind == "accepted"
    assert recognised(200, b"0: Accepted", accepted=both).kind == "unknown"
    assert recognised(202, b"1: Denied", accepted=both).kind == "unknown"
    either = [{"json": {"ok": True}}, {"json": {"result.state": ["queued", "sent"]}}]
    assert recognised(200, {"ok": True}, accepted=either).kind == "accepted"
    assert recognised(200, {"result": {"state": "sent"}}, accepted=either).kind == "accepted"
    assert recognised(200, {"result": {"state": "lost"}, "ok": False}, accepted=either).kind == "unknown"


def test_a_rule_comes_before_the_status() -> None:
    table: dict[str, Any] = {
        "code": "json:code",
        "permanent": {"code": ["21*"]},
        "temporary": {"status": ["4xx"]},
    }
    assert recognised(503, {"code": 21610}, **table) == ("permanent", "", "21610")
    assert recognised(400, {"code": 7}, **table) == ("temporary", "", "7")
    assert recognised(400, {"code": 21610}, **table).kind == "temporary"  # asked before permanent


def test_every_segment_must_be_accepted_and_one_refusal_is_enough() -> None:
    table: dict[str, Any] = {
        "id": "json:m.*.id", "code": "json:m.*.s", "accepted": {"code": [0]}, "throttled": {"code": [1]},
    }  # fmt: skip

    def of(*codes: int) -> Short:
        return recognised(200, {"m": [{"id": f"a,{n}", "s": s} for n, s in enumerate(codes)]}, **table)

    assert of(0) == ("accepted", "a,0", "0")
    assert of(0, 0) == ("accepted", "a%2C0,a%2C1", "0")
    assert of(0, 1) == ("throttled", "", "0,1")
    assert of(0, 7) == ("permanent", "", "0,7")


# -- where the id and the code stand


@pytest.mark.parametrize(
    ("source", "headers", "body", "found"),
    [
        ("json:id", {}, b'{"id":"m1"}', "m1"),
        ("json:id", {}, b'{"id":8792343}', "8792343"),
        ("json:a.0.b", {}, b'{"a":[{"b":"m1"}]}', "m1"),
        ("json:0", {}, b'["m1"]', "m1"),
        ("text:ID: ([0-9a-f]+)", {}, b"OK\nID: 4af2\n", "4af2"),
        ("text:[0-9]+", {}, b"sent 77", "77"),
        ("text:<id>([^<]+)</id>", {}, "<r><id>é1</id></r>".encode(), "é1"),
        ("header:X-Message-Id", {b"x-message-id": b"m1"}, b"", "m1"),
        ("own", {}, b"", "own-id"),
        ("", {}, b'{"id":"m1"}', ""),
    ],
)
def test_where_an_id_may_stand(source: str, headers: dict[bytes, bytes], body: bytes, found: str) -> None:
    assert recognised(200, body, headers, id=source) == ("accepted", found, "200")


def test_the_headers_that_are_asked_for_are_named() -> None:
    both = recognition(id="header:X-Id", code="header:X-Code ")
    assert both.headers == {b"x-id", b"x-code"}
    assert both.recognise(400, {b"x-code": b"E1"}, b"", "") == ("permanent", "", "E1", False)


def test_a_long_code_is_cut() -> None:
    assert len(recognised(400, {"code": "x" * 200}, code="json:code").code) == 64


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
)


@given(DOCUMENTS)
def test_no_document_is_too_strange(document: Any) -> None:
    found = recognised(
        200,
        document,
        id="json:a.*.0",
        code="json:b",
        accepted={"json": {"*.*": [1]}},
        throttled={"text": "x"},
    )
    assert found.kind in ("accepted", "permanent", "throttled", "unknown")


@given(st.binary(max_size=200), st.integers(200, 599))
def test_no_body_is_too_strange(body: bytes, status: int) -> None:
    table: dict[str, Any] = {
        "id": "json:a",
        "code": "text:b(.)?",
        "accepted": [{"json": {"x": 1}}, {"text": "ok"}],
    }
    assert recognised(status, body, **table).kind


def test_paths() -> None:
    document = {"a": [{"b": 1}, {"b": None}, {"c": 2}, 3], "0": "zero"}
    assert find(document, parse_path("a.0.b")) == 1
    assert find(document, parse_path("0")) == "zero"
    assert find(document, parse_path("a.9.b")) is find(document, parse_path("a.x")) is None
    assert find(document, ()) is document
    assert list(find_all(document, parse_path("a.*.b"))) == [1]
    assert list(find_all(document, parse_path("*.*.b"))) == [1]
    values: list[Any] = ["x", 7, 1.5, True, None, [], {}]
    assert [word(value) for value in values] == ["x", "7", "1.5", "true", "", "", ""]


# -- mistakes


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (
            {"id": "id"},
            "answer.id must be 'json:PATH', 'text:REGEX', 'header:NAME', 'own' or empty, not 'id'.",
        ),
        ({"id": "json:"}, "answer.id must be"),
        ({"code": "own"}, "answer.code must be in the answer"),
        ({"id": "text:(a"}, "answer.id is no regular expression"),
        ({"accepted": {}}, "answer.accepted must have a condition: status, code, json or text."),
        ({"accepted": {"code": [1]}}, "answer.accepted.code needs providers.acme.answer.code"),
        ({"accepted": {"status": ["ok"]}}, "answer.accepted.status must be a list of statuses"),
        ({"accepted": {"status": [99]}}, "answer.accepted.status must be a list of statuses"),
        (
            {"accepted": {"stats": [200]}},
            "answer.accepted.stats is not known; allowed are code, json, status",
        ),
        (
            {"accepted": [{"text": "a"}, {"text": "(x+)+"}]},
            "answer.accepted.text must be a regular expression",
        ),
        ({"otherwise": "accepted"}, "answer.otherwise must be 'permanent' or 'temporary'"),
        ({"accept": {}}, "answer.accept is not known; allowed are accepted, code, id"),
    ],
)
def test_mistakes_name_the_setting_and_what_is_allowed(table: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        recognition(**table)
    assert str(refused.value).startswith("providers.acme." + sentence)


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+b", "(a|a)*b", "(a*){2}", "a*a*a*b", r"(a)\1", "(?=a*)b", "(?P<x>a)(?P=x)", "a?" * 30 + "a" * 30,
     "x" * 201, "(a{9}){9}", "a?b?c?d?"],
)  # fmt: skip
def test_slow_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(ConfigError):
        linear(pattern, "answer.id")


@pytest.mark.parametrize(
    "pattern",
    [r"^(?:0:|3:|Sent\.)", r"id=(\d+)", r"<id>([^<]+)</id>", "(?i)ok", r"^[^:.]*", r"a\+b\(c\)*", "[*+?]+"],
)
def test_plain_patterns_are_taken(pattern: str) -> None:
    assert linear(pattern, "answer.id").pattern == pattern


@pytest.mark.parametrize("pattern", [".*.*!", r"a+\s*!", "a*a*!", "a?a?a?a*a*!"])
def test_the_worst_pattern_that_is_taken_is_quick_on_the_worst_text(pattern: str) -> None:
    compiled = linear(pattern, "answer.id")
    started = time.process_time()
    assert compiled.search("a" * TEXT_CHARACTERS_MAX) is None
    assert time.process_time() - started < 3
