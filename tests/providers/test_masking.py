"""What is kept of a provider's octets names no person, tells no secret and is short."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable
from urllib.parse import urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.problem_records import ProblemKind
from engine.providers.masking import MASK, About, masked, masked_form, spellings, without_secrets
from engine.providers.problems import Problems

MAX = 400
NUMBERS = st.from_regex(r"\+?[1-9][0-9]{7,14}", fullmatch=True)
# Words without digits and without what names a secret or an id.
AROUND = st.text(st.sampled_from("abcdefghilmnruvwyz \t,;<>{}"), max_size=30)
WRITTEN = {
    "ascii": lambda text: text.encode(),
    "utf-16-be": lambda text: text.encode("utf-16-be"),
    "utf-16-le": lambda text: text.encode("utf-16-le"),
    "hex": lambda text: text.encode().hex().encode(),
    "hex of utf-16": lambda text: text.encode("utf-16-be").hex().upper().encode(),
}


def shown_digits(text: str) -> str:
    """The digits that are left, also those behind escapes and in hex."""
    return re.sub(r"\\x[0-9a-f]{2}|\D", "", text)


@pytest.mark.parametrize("form", WRITTEN)
@given(number=NUMBERS, before=AROUND, after=AROUND, spaced=st.booleans())
def test_no_number_of_a_telephone_is_shown(
    form: str, number: str, before: str, after: str, spaced: bool
) -> None:
    if spaced:
        number = " ".join(re.findall("..?.?", number))
    shown = masked(before.encode() + b" " + WRITTEN[form](number) + b" " + after.encode(), MAX)
    digits = re.sub(r"\D", "", number)
    assert digits not in shown_digits(shown)
    assert len(shown_digits(shown)) < 7
    assert WRITTEN["hex"](digits[3:]).decode() not in shown


@pytest.mark.parametrize("form", WRITTEN)
@pytest.mark.parametrize("marker", ["text:", "Text:", "TEXT:"])
@given(text=st.text(st.characters(min_codepoint=0x41, max_codepoint=0x17F), min_size=4, max_size=40))
def test_no_text_of_a_message_is_shown(form: str, marker: str, text: str) -> None:
    shown = masked(WRITTEN[form](f"id:17 stat:DELIVRD {marker}{text}"), MAX)
    assert shown.endswith(MASK)
    assert len(shown) <= len(masked(WRITTEN[form](f"id:17 stat:DELIVRD {marker}"), MAX))


@given(sample=st.binary(max_size=2000) | st.text(max_size=2000))
def test_a_sample_is_printable_and_short_whatever_came(sample: bytes | str) -> None:
    shown = masked(sample, MAX)
    assert len(shown) <= MAX
    assert shown.isprintable()
    assert not re.search(r"[0-9]{7}", re.sub(r"\\[xuU][0-9a-f]+", "", shown)) or "id" in shown.lower()


@pytest.mark.parametrize(
    "sample",
    [
        "password=hunter2&to=x",
        '{"api_key": "hunter2"}',
        "Authorization: Basic hunter2",
        "authorization: Bearer hunter2",
        "X-Api-Key: hunter2",
        "<a token='hunter2'>",
        "pwd%3Dhunter2",
    ],
)
def test_no_secret_is_shown(sample: str) -> None:
    shown = masked(sample, MAX)
    assert "hunter2" not in shown
    assert MASK in shown


@given(secret=st.text(min_size=4, max_size=30))
def test_a_known_secret_is_hidden_however_it_is_written(secret: str) -> None:
    for spelling in spellings(secret):
        assert spelling not in without_secrets(f"/v1/{spelling}/send", spellings(secret)) or spelling in MASK


def test_what_an_operator_looks_for_is_kept() -> None:
    receipt = (
        b"id:0123456789 sub:001 dlvrd:001 submit date:2401011200 done date:2401011201 stat:DELIVRD err:000"
    )
    assert masked(receipt + b" text:hello", MAX) == receipt.decode() + f" text:{MASK}"
    answer = b'{"message_id": "0123456789", "code": 17, "detail": "no route"}'
    assert masked(answer, MAX) == answer.decode()
    assert masked(b"\x00\x01ABC", MAX) == "\\x00\\x01ABC"
    assert base64.b64encode(b"x") in masked(base64.b64encode(b"x"), MAX).encode()


SECRET = "s3cr3t/p&w<'ü"
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHäöéشم"
# States, which a receipt says with these words whatever its text is.
STATES = (
    "accepted",
    "enroute",
    "expired",
    "deleted",
    "unknown",
    "failed",
    "sent",
    "queued",
    "buffered",
    "pending",
)
WORDS = st.lists(
    st.text(st.sampled_from(LETTERS), min_size=4, max_size=9).filter(lambda word: word.lower() not in STATES),
    min_size=1,
    max_size=6,
)
# Texts with a code of four to eight digits, and what has to be escaped.
TEXTS = st.tuples(WORDS, st.from_regex(r"[1-9][0-9]{3,7}", fullmatch=True), st.sampled_from("/'&\"?! "))
ECHOES: dict[str, Callable[[str, str], str]] = {
    "html": lambda text, to: f"200: <html><body><p>Sent to {to}: {html.escape(text)}</p></body></html>",
    "plain": lambda text, to: f"404: no route for {to} body <{text}>",
    "json": lambda text, to: "200: " + json.dumps({"k": SECRET, "message": text, "to": to}),
    "url": lambda text, to: (
        f"302 to https://u:pw-of-url@host/?{urlencode({'t': text, 'to': to, 'p': SECRET})}: "
    ),
    "hex": lambda text, to: f"500: {text.encode().hex()} {SECRET.encode().hex().upper()} {to}",
    "cut": lambda text, to: f"500: {'x' * (390 - len(text))} {text} {SECRET}",
}
FORMS: dict[str, Callable[[str, str], str]] = {
    "prose": lambda text, to: f'Ihre Nachricht "{text.replace(chr(34), "")}" an {to} wurde zugestellt',
    "bare prose": lambda text, to: f"Ihre Nachricht {text} an {to} wurde zugestellt",
    "form": lambda text, to: f"id=17&to={to}&msg={text}&status=DELIVRD",
    "encoded form": lambda text, to: "?" + urlencode({"id": 17, "to": to, "msg": text}),
    "json": lambda text, to: json.dumps({"message_id": "17", "msg": text, "to": to, "k": SECRET}),
    "utf-8 json": lambda text, to: json.dumps({"id": "17", "msg": text, "to": [to]}, ensure_ascii=False),
    "xml": lambda text, to: f"<dlr><id>17</id><msg>{html.escape(text)}</msg><to>{to}</to></dlr>",
}


def leaks(shown: str, words: list[str], code: str, to: str) -> list[str]:
    """The words of a text, the code, the number and the secrets that a sample shows, in any spelling."""
    hidden = [code, to.lstrip("+"), SECRET, "pw-of-url", *(word for word in words if len(word) > 7)]
    return [word for word in hidden for spelling in spellings(word) if spelling in shown]


@pytest.mark.parametrize("form", ECHOES)
@given(parts=TEXTS, to=st.from_regex(r"\+[1-9][0-9]{7,14}", fullmatch=True))
def test_an_answer_shows_nothing_of_its_message_and_no_secret(
    form: str, parts: tuple[list[str], str, str], to: str
) -> None:
    words, code, mark = parts
    text = f"{' '.join(words)}{mark} {code}"
    problems = Problems()
    problems.know(spellings(SECRET))
    problems.note("acme", ProblemKind.answer_unread, ECHOES[form](text, to).encode(), About(text, to))
    [noted] = problems.collect()
    assert leaks(noted.samples[0].sample, [text, *words], code, to) == []
    assert noted.samples[0].sample[:3] == ECHOES[form](text, to)[:3]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-be"])
@given(parts=TEXTS, to=st.from_regex(r"\+[1-9][0-9]{7,14}", fullmatch=True))
@example(parts=(["digits"], "1000", "/"), to="+10000000")
def test_a_receipt_shows_its_form_and_no_content(
    form: str, encoding: str, parts: tuple[list[str], str, str], to: str
) -> None:
    words, code, mark = parts
    text = f"{' '.join(words)}{mark} {code}"
    problems = Problems()
    problems.know(spellings(SECRET))
    problems.note("acme", ProblemKind.receipt_unread, FORMS[form](text, to).encode(encoding))
    [noted] = problems.collect()
    # What stands for digits has that word of its own, whatever the text says.
    shown = noted.samples[0].sample.replace("<digits", "<")
    assert leaks(shown, [text, *words], code, to) == []
    assert not [word for word in words if len(word) > 5 and word in shown.replace("\\x00", "")]


def test_of_a_receipt_its_fields_stay() -> None:
    receipt = (
        "id:0123456789 sub:001 dlvrd:001 submit date:2401011200 done date:2401011201 stat:DELIVRD err:000"
    )
    assert masked_form(receipt + " text:hello", MAX) == receipt + f" text:{MASK}"
    assert masked_form('{"message_id": "0123456789", "status": "DELIVRD", "msg": "Hello 1"}', MAX) == (
        '{"message_id": "0123456789", "status": "DELIVRD", "msg": "<text 7>"}'
    )
    assert masked_form("?id=4711&to=989123456789&msg=Code%201234&what=WEIRD&how=DELIVRD", MAX) == (
        "?id=4711&to=989***&msg=<text 11>&what=<text 5>&how=DELIVRD"
    )
    body = b"\0\1\x0149170123456\0\1\1sender\0\4\0\0\0\0\0\0\0\x00" + f"P{receipt} text:hello".encode()
    shown = masked_form(body, MAX)
    assert receipt in shown
    assert not [word for word in ("sender", "0123456\\", "hello") if word in shown]
    assert masked_form("id:x state:pending code:17 to:989123456789", MAX) == (
        "id:x state:pending code:17 to:989***"
    )
    assert masked_form("state:WEIRD", MAX) == "state:WEIRD"
    assert masked_form("302 to https://user:pw@host/x", MAX).count("pw") == 0


def test_the_user_of_an_address_is_hidden() -> None:
    shown = masked("302 to https://user:p@ss@host.example/v2?x=1", MAX)
    assert shown == "302 to https://***@host.example/v2?x=1"
