"""Requests from descriptions: no sockets."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import __version__
from engine.errors import ConfigError
from engine.providers.http.escapes import Unencodable
from engine.providers.http.tables import decoded
from engine.providers.http.template import Fixed, RequestTable, RequestTemplate
from engine.records import Encoding, Message

ID = "01930000-0000-7000-8000-0000000000ff"
NOW_US = 1_000_000_000
# What every request says unless its description says otherwise.
ALWAYS = f"User-Agent: smsengine/{__version__}\r\nAccept-Encoding: identity\r\n".encode()
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


def message(
    text: str = "Hello",
    *,
    to: str = "+989120000000",
    sender: str = "Acme",
    encoding: Encoding = "GSM-7",
    reference: str = "",
    validity_s: float = 90,
) -> Message:
    return Message(
        id=ID, organisation_id=1, to=to, text=text, sender=sender, encoding=encoding, segments=2, units=2,
        accepted_at_us=0, expires_at_us=NOW_US + int(validity_s * 1e6), reference=reference,
    )  # fmt: skip


def template(fixed: Fixed | None = None, **table: Any) -> RequestTemplate:
    where = "providers.acme.request"
    return RequestTemplate(decoded(table, RequestTable, where), fixed or Fixed("acme"), where)


def fields(sent: Message, fixed: Fixed | None = None, **table: Any) -> Any:
    """The JSON body that `table` makes of a message."""
    return json.loads(template(fixed, **table).build(sent, NOW_US).body)


# -- where values stand, and how they are escaped there


def test_a_json_body_keeps_its_shape_and_takes_numbers_as_numbers() -> None:
    request = template(
        path="/v2/{id}",
        query={"dry": False, "n": 3},
        headers={"X-Ref": "r-{id}"},
        fields={
            "messages": [{"to": "{to}", "body": {"text": "{text}!"}}],
            "parts": "{segments}",
            "about": "{segments} parts",
            "unicode": True,
            "price": 1.5,
        },
    ).build(message('a "b"\n%s {x}'), NOW_US)
    assert request.path == f"/v2/{ID}?dry=false&n=3".encode()
    assert request.headers == ALWAYS + f"Content-Type: application/json\r\nX-Ref: r-{ID}\r\n".encode()
    assert json.loads(request.body) == {
        "messages": [{"to": "+989120000000", "body": {"text": 'a "b"\n%s {x}!'}}],
        "parts": 2,
        "about": "2 parts",
        "unicode": True,
        "price": 1.5,
    }


@given(text=TEXTS, sender=TEXTS)
def test_any_text_comes_through_every_body_unchanged(text: str, sender: str) -> None:
    sent = message(text, sender=sender)
    both = {"text": "{text}", "from": "{from}"}
    assert fields(sent, fields=both) == {"text": text, "from": sender}
    form = template(body="form", fields=both).build(sent, NOW_US)
    assert parse_qs(form.body.decode("ascii"), keep_blank_values=True) == {"text": [text], "from": [sender]}
    query = template(method="GET", body="query", path="/s", fields=both).build(sent, NOW_US)
    parts = urlsplit(query.path.decode("ascii"))
    assert dict(parse_qsl(parts.query, keep_blank_values=True)) == {"text": text, "from": sender}
    assert parts.path == "/s"
    assert query.body == b""
    path = template(path="/to/{text}/end").build(sent, NOW_US).path.decode("ascii")
    assert path.count("/") == 3
    assert unquote(path) == f"/to/{text}/end"
    assert (
        template(body="text", text="{from}: {text}").build(sent, NOW_US).body == f"{sender}: {text}".encode()
    )


@given(reference=TEXTS)
def test_no_message_can_add_a_header(reference: str) -> None:
    build = template(headers={"X-Reference": "{reference}"}).build
    if reference.isascii() and (reference.isprintable() or not reference):
        lines = build(message(reference=reference), NOW_US).headers.split(b"\r\n")
        assert lines[3:] == [f"X-Reference: {reference}".encode(), b""]
    else:
        with pytest.raises(Unencodable):
            build(message(reference=reference), NOW_US)


def test_percent_signs_of_the_description_are_only_percent_signs() -> None:
    request = template(
        method="GET",
        body="query",
        path="/100%25/{id}",
        headers={"X": "5%b%%{id}"},
        fields={"u": "a=%d&b={id}"},
    ).build(message(), NOW_US)
    assert request.path == f"/100%25/{ID}?u=a%3D%25d%26b%3D{ID}".encode()
    assert request.headers == ALWAYS + f"X: 5%b%%{ID}\r\n".encode()
    static = template(fields={"u": "%d %% {{id}}"}).build(message(), NOW_US)
    assert json.loads(static.body) == {"u": "%d %% {id}"}


def test_a_list_in_a_form_is_its_name_again_and_again() -> None:
    body = template(body="form", fields={"to[]": ["{to}", "x"], "n": 1}).build(message(), NOW_US).body
    assert parse_qsl(body.decode()) == [("to[]", "+989120000000"), ("to[]", "x"), ("n", "1")]


def test_the_path_of_the_url_stands_before_that_of_the_request() -> None:
    def path(base: str, own: str) -> bytes:
        return template(Fixed("acme", base_path=base), path=own).build(message(), NOW_US).path

    assert [path("", ""), path("", "/a"), path("/x%20y", ""), path("/x", "/a")] == [
        b"/", b"/a", b"/x%20y", b"/x/a",
    ]  # fmt: skip


# -- what a message gives


def test_every_placeholder() -> None:
    names = ("to", "to_digits", "from", "text", "id", "encoding", "reference", "username", "password",
             "receipt_url", "provider", "segments", "id_number", "validity_s", "validity_ms",
             "validity_minutes")  # fmt: skip
    fixed = Fixed("acme", username="u", password="p", receipt_url="https://e.org/r")
    sent = message(reference="ref")
    assert fields(sent, fixed, fields={name: f"{{{name}}}" for name in names}) == {
        "to": "+989120000000", "to_digits": "989120000000", "from": "Acme", "text": "Hello", "id": ID,
        "encoding": "GSM-7", "reference": "ref", "username": "u", "password": "p",
        "receipt_url": "https://e.org/r", "provider": "acme", "segments": 2, "id_number": 255,
        "validity_s": 90, "validity_ms": 90_000, "validity_minutes": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("left_s", "bounds", "seconds", "minutes"),
    [
        (90, {}, 90, 2),
        (-5, {}, 1, 1),
        (0.4, {}, 1, 1),
        (86_400, {"validity_max_s": 36_000}, 36_000, 600),
        (3, {"validity_min_s": 60}, 60, 1),
    ],
)
def test_the_validity_is_what_is_left_within_the_carriers_bounds(
    left_s: float, bounds: dict[str, Any], seconds: int, minutes: int
) -> None:
    given = fields(
        message(validity_s=left_s), fields={"s": "{validity_s}", "m": "{validity_minutes}"}, **bounds
    )
    assert given == {"s": seconds, "m": minutes}


@pytest.mark.parametrize(
    ("to", "written"), [("+989120000000", "09120000000"), ("+447700900000", "00447700900000")]
)
def test_numbers_are_rewritten_by_their_longest_beginning(to: str, written: str) -> None:
    given = fields(
        message(to=to), fields={"to": "{to}", "d": "{to_digits}"}, rewrite_to={"+": "00", "+98": "0"}
    )
    assert given == {"to": written, "d": to[1:]}


def test_what_a_message_lacks_is_left_out_where_the_description_says_so() -> None:
    table: dict[str, Any] = {
        "fields": {"a": "{from?}", "b": "x{reference?}", "c": ["{from?}", {"d": "{reference?}"}, 1]},
        "headers": {"X-From": "{from?}"},
        "query": {"q": "{reference?}"},
    }
    request = template(**table).build(message(sender=""), NOW_US)
    assert json.loads(request.body) == {"c": [{}, 1]}
    assert (request.path, request.headers) == (b"/", ALWAYS + b"Content-Type: application/json\r\n")
    request = template(**table).build(message(reference="r"), NOW_US)
    assert json.loads(request.body) == {"a": "Acme", "b": "xr", "c": ["Acme", {"d": "r"}, 1]}
    assert (request.path, request.headers[-14:]) == (b"/?q=r", b"X-From: Acme\r\n")


def test_without_a_question_mark_it_is_empty() -> None:
    assert fields(message(sender=""), fields={"a": "{from}"}) == {"a": ""}


def test_the_provider_names_the_sender_when_the_message_does_not() -> None:
    fixed = Fixed("acme", sender="House")
    assert fields(message(sender=""), fixed, fields={"a": "{from?}"}) == {"a": "House"}
    assert fields(message(), fixed, fields={"a": "{from?}"}) == {"a": "Acme"}


def test_nothing_takes_a_field_away() -> None:
    assert fields(message(), fields={"a": "{nothing?}", "b": "x"}) == {"b": "x"}


def test_what_is_laid_over_for_an_encoding_and_for_receipts() -> None:
    table: dict[str, Any] = {
        "fields": {"text": "{text}", "coding": 0},
        "when_ucs2": {"fields": {"coding": 2, "charset": "UTF-8"}, "headers": {"X": "u"}},
        "when_gsm7": {"query": {"gsm": 1}},
        "when_receipts": {"fields": {"dlr": 31, "url": "{receipt_url}?id={id}"}},
    }
    ucs2 = template(**table).build(message("سلام", encoding="UCS-2"), NOW_US)
    assert json.loads(ucs2.body) == {"text": "سلام", "coding": 2, "charset": "UTF-8"}
    assert (ucs2.path, b"X: u\r\n" in ucs2.headers) == (b"/", True)
    gsm7 = template(Fixed("acme", receipt_url="https://e.org/r"), **table).build(message(), NOW_US)
    assert json.loads(gsm7.body) == {
        "text": "Hello", "coding": 0, "dlr": 31, "url": f"https://e.org/r?id={ID}",
    }  # fmt: skip
    assert gsm7.path == b"/?gsm=1"


def test_how_the_carrier_is_told_who_we_are() -> None:
    fixed = Fixed("acme", username="me", password="s3{cr}et")
    basic = template(fixed, auth="basic").build(message(), NOW_US).headers
    assert b"Authorization: Basic bWU6czN7Y3J9ZXQ=\r\n" in basic  # RFC 7617: me:s3{cr}et
    bearer = template(fixed, auth="bearer").build(message(), NOW_US).headers
    assert b"Authorization: Bearer s3{cr}et\r\n" in bearer
    own = template(fixed, headers={"authorization": "Key {password}", "content-type": "a/b"})
    lines = own.build(message(), NOW_US).headers.split(b"\r\n")
    assert sorted(lines) == sorted(
        [*ALWAYS.split(b"\r\n"), b"authorization: Key s3{cr}et", b"content-type: a/b"]
    )
    agent = template(
        headers={"user-agent": "curl/8", "Accept-Encoding": "{nothing?}"}, method="GET", body="query"
    )
    assert agent.build(message(), NOW_US).headers == b"user-agent: curl/8\r\n"


# -- mistakes


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (
            {"fields": {"a": "{tto}"}},
            "request.fields.a: {tto} is no placeholder; there are {to}, {to_digits}",
        ),
        ({"fields": {"a": [{"b": "{x}"}]}}, "request.fields.a.0.b: {x}"),
        ({"fields": {"a": "{to"}}, "request.fields.a has a brace that belongs to no placeholder"),
        ({"fields": {"a": "}"}}, "a plain one is written }}"),
        ({"fields": {"a": "{username}"}}, "request.fields.a has {username}, so username must be given"),
        ({"query": {"a": "{receipt_url}"}}, "so public_url and receipt_token must be given"),
        ({"body": "form", "fields": {"a": {"b": 1}}}, "request.fields.a must be a text, a number or a list"),
        ({"path": "send"}, "request.path must begin with a slash"),
        ({"path": "/a b"}, "request.path must hold neither blanks"),
        ({"path": "/a?b=c"}, "parameters stand in providers.acme.request.query"),
        ({"path": "/{reference?}"}, "request.path cannot be left out"),
        (
            {"headers": {"Content-Length": "3"}},
            "request.headers.Content-Length must be a header's name and none",
        ),
        ({"headers": {"X Y": "3"}}, "request.headers.X Y must be a header's name"),
        ({"headers": {"X": "a\r\nY: b"}}, "request.headers.X must be printable ASCII"),
        ({"headers": {"X": "é"}}, "request.headers.X must be printable ASCII"),
        ({"content_type": "a\nb"}, "request.headers.Content-Type must be printable ASCII"),
        ({"auth": "basic"}, "request.auth is 'basic', so username must be given"),
        ({"auth": "bearer"}, "request.auth is 'bearer', so password must be given"),
        ({"method": "GET"}, "request.body must be 'query' when the method is GET"),
        ({"method": "HEAD"}, "request.method must be 'GET' or 'POST' or 'PUT', not 'HEAD'"),
        ({"body": "text", "fields": {"a": 1}}, "request.fields must be left out: the body is 'text'"),
        ({"text": "x"}, "request.text must be left out unless the body is 'text'"),
        (
            {"validity_min_s": 9, "validity_max_s": 8},
            "request.validity_min_s must be from 1 to validity_max_s",
        ),
        ({"feilds": {}}, "request.feilds is not known; allowed are auth, body"),
        ({"when_ucs2": {"feilds": {}}}, "request.when_ucs2.feilds is not known; allowed are fields"),
        ({"when_ucs2": {"fields": {"a": "{x}"}}}, "request.fields.a: {x} is no placeholder"),
        ({"fields": [1]}, "request.fields must be a table, not [1]"),
        ({"headers": {"X": 1}}, "request.headers must be a table, each value a text"),
    ],
)
def test_mistakes_name_the_setting_and_what_is_allowed(table: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        template(**table)
    assert sentence in str(refused.value)
    assert str(refused.value).startswith("providers.acme.request.")
    assert str(refused.value).endswith(".")
    assert "\n" not in str(refused.value)


def test_a_password_with_a_line_end_is_refused_and_not_printed() -> None:
    with pytest.raises(ConfigError) as refused:
        template(Fixed("acme", password="top\r\nX: secret"), auth="bearer")
    assert "secret" not in str(refused.value)
