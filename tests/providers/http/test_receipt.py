"""Receipts from carriers' requests: no sockets."""

from __future__ import annotations

import contextlib
import json
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigError, Refusal
from engine.providers.http.pushed import BODY_BYTES_MAX
from engine.providers.http.pushed import ITEMS_MAX as RECEIPTS_MAX
from engine.providers.http.receipt import ReceiptReading, ReceiptTable
from engine.providers.http.tables import decoded
from engine.receipts.records import Receipt

ID = "01930000-0000-7000-8000-0000000000ff"
NOW_US = 1_700_000_000_000_000
FORM = "application/x-www-form-urlencoded"
WHERE = "providers.acme.receipt"
TABLE: dict[str, Any] = {
    "id": "id",
    "own_id": "ref",
    "state": "state",
    "code": "err",
    "to": "to",
    "states": {"delivered": ["DELIVRD", 1], "undelivered": ["UNDELIV", "EXP*", 2], "pending": [4]},
}


class Reading:
    """Raises the refusal, where a test is about one or about none."""

    def __init__(self, **table: Any) -> None:
        self.inner = ReceiptReading(decoded({**TABLE, **table}, ReceiptTable, WHERE), "acme", WHERE)

    def read(self, *request: Any) -> list[Receipt]:
        receipts, refusal = self.inner.read(*request)
        if refusal is not None:
            raise refusal
        return receipts


def reading(**table: Any) -> Reading:
    return Reading(**table)


def read_json(value: object, query: str = "", **table: Any) -> list[Receipt]:
    body = json.dumps(value).encode()
    return reading(**table).read("POST", query, "application/json; charset=utf-8", body, NOW_US)


def refusal(
    method: str = "POST", query: str = "", kind: str = FORM, body: bytes = b"", **table: Any
) -> Refusal:
    with pytest.raises(Refusal) as refused:
        reading(**table).read(method, query, kind, body, NOW_US)
    return refused.value


GIVEN = {"id": "M-1", "ref": ID, "state": "DELIVRD", "err": "000", "to": "+98 912-000"}
READ = Receipt(
    provider="acme", provider_message_id="M-1", state="delivered", code="DELIVRD 000", at_us=NOW_US,
    to="98912000", message_id=ID,
)  # fmt: skip


def test_the_same_receipt_however_it_is_sent() -> None:
    text = urlencode(GIVEN)
    assert reading().read("GET", text, "", b"", NOW_US) == [READ]
    assert reading().read("POST", "", FORM, text.encode(), NOW_US) == [READ]
    assert reading(format="query").read("POST", text, "application/json", b"", NOW_US) == [READ]
    assert reading(format="json").read("PUT", "", "", json.dumps(GIVEN).encode(), NOW_US) == [READ]
    assert read_json(GIVEN) == [READ]


@pytest.mark.parametrize("end", ["\r\n", "\n"])
@pytest.mark.parametrize("quote", ['"', ""])
def test_a_form_in_parts_is_read(end: str, quote: str) -> None:
    fields = {"text": "--x\n\nid=9", "id": "c-1", "state": "DELIVRD", "to": "+98 912"}
    parts = [
        f"--x-y{end}Content-Disposition: form-data; name={quote}{name}{quote}; filename=a{end}"
        f"Content-Type: text/plain{end}{end}{value}{end}"
        for name, value in fields.items()
    ]
    body = ("".join(parts) + f"--x-y--{end}").encode()
    for kind in ("multipart/form-data; boundary=x-y", "multipart/form-data; boundary=z", FORM, ""):
        [one] = reading().read("POST", "", kind, body, NOW_US)
        assert (one.provider_message_id, one.state, one.to) == ("c-1", "delivered", "98912")


def test_parts_that_cannot_be_told_apart_are_refused() -> None:
    for body in (b"--", b"--x", b"--x\r\n\r\n", b"--x\n" * 300):
        assert refusal(body=body).status in (400, 422)


def test_blanks_around_a_value_are_no_part_of_it() -> None:
    [one] = reading().read("GET", "id=%0D%0Ac-1+&state=+DELIVRD%00&err=+0+", "", b"", NOW_US)
    assert (one.provider_message_id, one.state, one.code) == ("c-1", "delivered", "DELIVRD 0")


def test_what_the_engine_put_into_the_address_comes_back_beside_a_form() -> None:
    table = {"own_id": "query:id", "id": "MessageSid"}
    body = urlencode({"MessageSid": "SM1", "state": "UNDELIV", "id": "theirs"}).encode()
    (receipt,) = reading(**table).read("POST", f"id={ID}&id=again", FORM, body, NOW_US)
    assert (receipt.provider_message_id, receipt.message_id, receipt.state) == ("SM1", ID, "undelivered")


def test_a_form_with_utf8_left_as_it_is_is_read() -> None:
    body = "id=M-1&state=1&text=é".encode()
    assert reading().read("POST", "", FORM, body, NOW_US)[0].provider_message_id == "M-1"


def test_a_list_of_receipts_at_the_top_or_inside() -> None:
    second = {"id": "M-2", "state": 2}
    assert [r.provider_message_id for r in read_json([GIVEN, second])] == ["M-1", "M-2"]
    inside = {"results": {"all": [GIVEN, second]}}
    assert [r.state for r in read_json(inside, list="results.all")] == ["delivered", "undelivered"]
    assert read_json([]) == []


def test_fields_deep_inside_json() -> None:
    nested = {"data": {"ids": ["x", "M-1"], "status": {"name": "EXPIRED", "a.b": 7}}}
    (receipt,) = read_json(nested, id="data.ids.1", state="data.status.name", code="")
    assert (receipt.provider_message_id, receipt.state, receipt.code) == ("M-1", "undelivered", "EXPIRED")
    assert read_json({"message.id": "M", "state": 1}, id="message.id")[0].provider_message_id == "M"


def test_what_can_be_read_of_a_list_is_taken_and_the_rest_is_refused() -> None:
    body = json.dumps([{"id": "m"}, GIVEN, {"state": 1}, {"id": "M-2", "state": 1}, None]).encode()
    receipts, refusal = reading().inner.read("POST", "", "application/json", body, NOW_US)
    assert [r.provider_message_id for r in receipts] == ["M-1", "M-2"]
    assert refusal is not None
    assert (refusal.status, refusal.field) == (422, "0.state")


ONE = json.dumps(GIVEN).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + ONE, b"\xef\xbb\xbf\xef\xbb\xbf \r\n" + ONE, ONE.decode().encode("utf-16"),
        ONE.decode().encode("utf-16-le"), ONE + b"\n\0\0", b"[" + ONE + b"]",
        json.dumps(ONE.decode()).encode(),
        ONE[:-1] + b', "operator": "T\xe9l\xe9com"}', ONE[:-1] + b', "text": "a\nb\t\x01"}',
        ONE[:-1] + b', "text": "\\ud83d"}', ONE[:-1] + b', "x": NaN}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["application/json", "text/plain", "", FORM])
def test_json_is_read_as_servers_write_it(body: bytes, kind: str) -> None:
    if body[:1] in b'"{' or b"\0" not in body[:4]:
        given = reading() if body[:1] != b'"' and body[:2] != b"\xff\xfe" else reading(format="json")
        assert given.read("POST", "", kind, body, NOW_US) == [READ]
    assert reading(format="json").read("POST", "", kind, body, NOW_US) == [READ]


def test_several_documents_in_one_body_are_all_read_or_none_is_lost() -> None:
    second = b'{"id": "M-2", "state": 2}'
    for between in (b"\n", b"", b"\r\n\0"):
        body = ONE + between + second + b"\n"
        found = reading().read("POST", "", "application/x-ndjson", body, NOW_US)
        assert [r.provider_message_id for r in found] == ["M-1", "M-2"]
    for rest in (b',{"id"', b"{", second[:-1], b"x"):
        assert refusal(kind="application/json", body=ONE + rest).status == 400


def test_the_wrapping_that_is_described_may_be_missing() -> None:
    second = {"id": "M-2", "state": 2}
    for value in ({"results": [GIVEN, second]}, [GIVEN, second], [{"results": [GIVEN, second]}]):
        assert [r.provider_message_id for r in read_json(value, list="results")] == ["M-1", "M-2"]
    for value in ({"results": GIVEN}, GIVEN):
        assert read_json(value, list="results") == [READ]


def test_what_the_content_type_gets_wrong_is_seen_in_the_body() -> None:
    form = urlencode(GIVEN)
    assert reading().read("POST", "", "application/json", form.encode(), NOW_US) == [READ]
    assert reading().read("POST", form, "application/json", b"", NOW_US) == [READ]
    assert reading().read("POST", form, FORM, b"\r\n", NOW_US) == [READ]


@pytest.mark.parametrize(
    ("state", "otherwise", "is_"),
    [
        ("DELIVRD", "pending", "delivered"),
        (1, "pending", "delivered"),
        ("1", "pending", "delivered"),
        ("UNDELIV", "pending", "undelivered"),
        ("EXPIRED", "pending", "undelivered"),
        (4, "pending", "pending"),
        ("delivrd", "pending", "pending"),
        ("SOMETHING", "pending", "pending"),
        (7, "undelivered", "undelivered"),
    ],
)
def test_states_are_told_by_the_table(state: object, otherwise: str, is_: str) -> None:
    assert read_json({"id": "m", "state": state}, otherwise=otherwise)[0].state == is_


def test_our_own_id_is_enough_and_stands_for_the_carriers() -> None:
    (receipt,) = read_json({"ref": ID, "state": 1}, id="")
    assert (receipt.provider_message_id, receipt.message_id) == (ID, ID)


@pytest.mark.parametrize("strange", ["", "x", "1" * 36, ID[:-1], f"{ID}0", ID.replace("-7", "-4", 1)])
def test_an_own_id_that_is_none_of_ours_is_not_taken(strange: str) -> None:
    assert read_json({"id": "m", "ref": strange, "state": 1})[0].message_id == ""
    assert refusal(body=urlencode({"ref": strange, "state": 1}).encode()).field == "id"


def test_a_long_code_is_cut_and_a_long_id_is_not() -> None:
    assert len(read_json({"id": "m", "state": "1", "err": "e" * 999})[0].code) == 2 + 64
    assert refusal(body=urlencode({"id": "m" * 257, "state": 1}).encode()).field == "id"


@pytest.mark.parametrize(
    ("value", "status", "field"),
    [
        ({"id": "m"}, 422, "state"),
        ({"id": "m", "state": ""}, 422, "state"),
        ({"id": "m", "state": {"a": 1}}, 422, "state"),
        ({"state": 1}, 422, "id"),
        ({"id": None, "state": 1}, 422, "id"),
        ({"id": "m", "state": "s" * 257}, 422, "state"),
        ([GIVEN, {"id": "m"}], 422, "1.state"),
        ("text", 422, "state"),
        (7, 422, "state"),
        ([None], 422, "0.state"),
        ([{}] * (RECEIPTS_MAX + 1), 413, None),
    ],
)
def test_a_wrong_receipt_names_its_field(value: object, status: int, field: str | None) -> None:
    refused = refusal(kind="application/json", body=json.dumps(value).encode())
    assert (refused.status, refused.field) == (status, field)
    assert refused.detail.endswith(".")


@pytest.mark.parametrize(
    ("kind", "body", "query", "status"),
    [
        ("application/json", b"{", "", 400),
        ("application/json", b"", "", 400),
        ("application/json", b"\xff", "", 400),
        ("application/json", b"[" * 100_000, "", 400),
        ("application/json", b"[]" * (RECEIPTS_MAX + 1), "", 413),
        # Each of these takes minutes when the rest is copied for every document, or read again.
        ("application/json", b"{}" * (BODY_BYTES_MAX // 2), "", 413),
        ("application/json", b'{"a":1,}' * (BODY_BYTES_MAX // 8), "", 413),
        ("application/json", b"[1,]," * (BODY_BYTES_MAX // 5), "", 400),
        ("application/json", b'{"a":"' + b'\\"' * (BODY_BYTES_MAX // 2 - 3), "", 400),
        ("application/json", b'{"a":1,,' + b" ," * (BODY_BYTES_MAX // 2 - 4), "", 400),
        (FORM, b"&".join(b"a=1" for _ in range(500)), "", 400),
        (FORM, b"", "&".join("a=1" for _ in range(500)), 400),
        (FORM, b"a" * (BODY_BYTES_MAX + 1), "", 413),
        ("", b"", "", 422),
    ],
)
def test_a_body_that_is_none_is_refused(kind: str, body: bytes, query: str, status: int) -> None:
    assert refusal(kind=kind, body=body, query=query).status == status


@given(st.binary(max_size=100), st.text(max_size=50), st.sampled_from([FORM, "application/json", "x"]))
def test_no_request_is_too_strange(body: bytes, query: str, kind: str) -> None:
    with contextlib.suppress(Refusal):
        assert isinstance(reading().read("POST", query, kind, body, NOW_US), list)


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"id": "", "own_id": ""}, "receipt must have id or own_id"),
        ({"state": ""}, "receipt.state must name the field"),
        (
            {"states": {"lost": []}},
            "receipt.states.lost is not known; allowed are delivered, pending, undelivered",
        ),
        ({"states": {"pending": "x"}}, "receipt.states.pending must be a list"),
        ({"format": "xml"}, "receipt.format must be 'auto' or 'query' or 'form' or 'json', not 'xml'."),
        ({"otherwise": "lost"}, "receipt.otherwise must be 'delivered' or 'undelivered' or 'pending'"),
        ({"reply": {"status": 500}}, "receipt.reply.status must be from 200 to 299, not 500."),
        ({"reply": {"code": 500}}, "receipt.reply.code is not known"),
    ],
)
def test_mistakes_name_the_setting_and_what_is_allowed(table: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        reading(**table)
    assert str(refused.value).startswith("providers.acme." + sentence)
