"""Receipts are read as carriers really write them, and nothing else is taken for one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.problem_records import ProblemKind
from engine.providers.settings import SmppSettings
from engine.providers.smpp.alphabet import packed, unpacked
from engine.providers.smpp.body import ShortMessage
from engine.providers.smpp.codes import MessageState, Tag
from engine.providers.smpp.receipt import ERR_MAX, ID_MAX, STAT_MAX, TO_MAX, Reading, ReceiptReader
from engine.providers.states import StatesTable
from engine.receipts.records import Receipt

AT_US = 1_795_335_960_000_000
EXAMPLE = (
    "id:0123456789 sub:001 dlvrd:001 submit date:2611220826 done date:2611220827 "
    "stat:DELIVRD err:000 text:Your code"
)
RECEIPT, INTERMEDIATE = 0x04, 0x20


def deliver(text: str | bytes = "", **fields: Any) -> ShortMessage:
    raw = text.encode("latin-1") if isinstance(text, str) else text
    values: dict[str, Any] = {"esm_class": RECEIPT, "source": "989121234567", "short_message": raw}
    return ShortMessage(**{**values, **fields})


def reading(m: ShortMessage, **settings: Any) -> Reading:
    values = {"name": "carrier", "host": "localhost", "system_id": "us", **settings}
    return ReceiptReader(SmppSettings(**values)).read(m, AT_US)


def read(text: str | bytes = "", settings: dict[str, Any] | None = None, **fields: Any) -> Receipt:
    found = reading(deliver(text, **fields), **(settings or {})).receipt
    assert found is not None
    return found


def parameters(message_id: bytes = b"", state: int | None = None, error: bytes = b"") -> dict[int, bytes]:
    found = {}
    if message_id:
        found[int(Tag.receipted_message_id)] = message_id
    if state is not None:
        found[int(Tag.message_state)] = bytes([state])
    if error:
        found[int(Tag.network_error_code)] = error
    return found


def test_the_specifications_form_is_read() -> None:
    assert read(EXAMPLE) == Receipt(
        provider="carrier",
        provider_message_id="0123456789",
        state="delivered",
        code="DELIVRD 000",
        at_us=AT_US,
        to="989121234567",
    )


@pytest.mark.parametrize(
    ("stat", "state"),
    [
        ("DELIVRD", "delivered"),
        ("UNDELIV", "undelivered"),
        ("REJECTD", "undelivered"),
        ("EXPIRED", "undelivered"),
        ("DELETED", "undelivered"),
        ("ENROUTE", "pending"),
        ("ACCEPTD", "pending"),
        ("UNKNOWN", "pending"),
        ("UNDELIVERABLE", "undelivered"),
        ("Delivered", "delivered"),
        ("SOMETHING", "pending"),
    ],
)
def test_states_of_the_text(stat: str, state: str) -> None:
    found = read(f"id:1 stat:{stat} err:069")
    assert (found.state, found.code) == (state, f"{stat.upper()} 069")


@pytest.mark.parametrize("state", MessageState)
def test_states_of_the_parameter_mean_what_the_words_mean(state: MessageState) -> None:
    found = read(parameters=parameters(b"1\0", state))
    assert found.state == read(f"id:1 stat:{found.code}").state
    assert len(found.code) == 7


@pytest.mark.parametrize(
    "text",
    [
        "id:0123456789 submit date:2611220826 done date:2611220827 stat:DELIVRD err:000 text:hello",
        "ID:0123456789 SUB:001 DLVRD:001 STAT:DELIVRD ERR:000 TEXT:hello",
        "stat:DELIVRD err:000 id:0123456789",
        "id: 0123456789  sub: 001 stat: DELIVRD   err: 000 Text: ",
        "id :0123456789 stat :DELIVRD err :000",
        "id:0123456789\nstat:delivrd\nerr:000\n",
        "Text:hello id:0123456789 err:000 stat:DELIVRD",
        "id:0123456789 sub:001 stat:DELIVRD err:000 text:id:666 stat:UNDELIV err:111",
        "id:0123456789 stat:DELIVRD err:000 text:\0",
        "id:0123456789 stat:DELIVRD err:000\0",
        "\tid:0123456789\tstat:DELIVRD\terr:000",
    ],
)
def test_texts_that_carriers_vary(text: str) -> None:
    found = read(text)
    assert (found.provider_message_id, found.state, found.code) == ("0123456789", "delivered", "DELIVRD 000")


@pytest.mark.parametrize("space", [" ", "  ", "\t"])
@pytest.mark.parametrize("text", ["", "hello", "id:666 stat:UNDELIV err:111", "text:id:666", "\0"])
@pytest.mark.parametrize("message_id", ["7F3A-1", "7,5", "xid", "text"])
def test_the_usual_form_is_read_as_its_variations_are(space: str, text: str, message_id: str) -> None:
    usual = f"id:{message_id} sub:001 dlvrd:000 submit date:26 done date:26 stat:EXPIRED err:0AF text:{text}"
    found = read(usual.replace(" ", space, 2))
    assert (found.provider_message_id, found.code) == (message_id, "EXPIRED 0AF")


@pytest.mark.parametrize(
    "message_id", ["01930000-0000-7000-8000-00000000abcd", "A29F6845555647139E5C", "7b.x_9/==", "12,34", "0"]
)
def test_ids_are_taken_as_they_are_written(message_id: str) -> None:
    assert read(f"id:{message_id} sub:001 stat:DELIVRD").provider_message_id == message_id


def test_what_is_missing_is_left_out() -> None:
    assert read("id:1").state == "pending"
    assert read("id:1").code == ""
    assert read("id:1 stat:UNDELIV").code == "UNDELIV"
    assert read("id:1 stat:UNDELIV err: text:").code == "UNDELIV"
    assert read("id:1 stat: err:069").code == "069"
    assert read("id:1", source="").to == ""


def test_a_receipt_that_names_no_message_is_none_but_is_no_message_from_a_subscriber() -> None:
    for text in ("", "stat:DELIVRD err:000", "id: sub:001 stat:DELIVRD", "id:sub:001 stat:DELIVRD"):
        assert reading(deliver(text)) == Reading(None, ProblemKind.receipt_unread)


def test_the_messages_own_text_decides_nothing() -> None:
    forged = read("id:1 sub:001 text:id:2 stat:DELIVRD")
    assert forged.provider_message_id == "1"
    # Where a carrier puts the text first, the fields behind it are the carrier's.
    first = read("text:id:2 stat:DELIVRD id:1 stat:UNDELIV err:069")
    assert (first.provider_message_id, first.code) == ("1", "UNDELIV 069")


def test_the_parameters_count_before_the_text() -> None:
    found = read("id:999 stat:ENROUTE err:000 text:x", parameters=parameters(b"7F3A\0", 5, b"\x03\x00\x45"))
    assert (found.provider_message_id, found.state, found.code) == ("7F3A", "undelivered", "UNDELIV 069")


@pytest.mark.parametrize("raw", [b"7F3A\0", b"7F3A", b"7F3A\0\0", b" 7F3A\0"])
def test_the_parameters_id_is_read_with_or_without_its_end(raw: bytes) -> None:
    assert read(parameters=parameters(raw, 2)).provider_message_id == "7F3A"


def test_parameters_that_say_nothing_yield_to_the_text() -> None:
    assert read("id:1 stat:DELIVRD err:000", parameters=parameters(b"\0", 7)).code == "DELIVRD 000"
    assert (
        read("id:1 stat:DELIVRD err:069", parameters=parameters(state=99, error=b"\0")).code == "DELIVRD 069"
    )
    assert read("id:1", parameters=parameters(state=7)).code == "UNKNOWN"
    assert read("id:1 stat:DELIVRD", parameters={Tag.message_state: b"\x00\x05"}).state == "delivered"


def test_the_text_may_be_a_parameter_or_ucs_2_or_stand_behind_a_header() -> None:
    assert read(parameters={Tag.message_payload: EXAMPLE.encode()}).state == "delivered"
    assert read(EXAMPLE.encode("utf-16-be"), data_coding=8).provider_message_id == "0123456789"
    assert read(b"\x05\0\x03\x01\x01\x01" + EXAMPLE.encode(), esm_class=0x44).state == "delivered"


def test_an_intermediate_notification_never_ends_a_message() -> None:
    assert read("id:1 stat:UNDELIV err:027", esm_class=INTERMEDIATE).state == "pending"
    assert read("id:1 stat:UNDELIV err:027", esm_class=INTERMEDIATE).code == "UNDELIV 027"
    assert read("id:1 stat:DELIVRD", esm_class=INTERMEDIATE).state == "delivered"


@pytest.mark.parametrize("esm_class", [0x00, 0x40, 0x03, 0x08, 0x10, 0x18])
def test_what_a_subscriber_sends_is_no_receipt_whatever_it_says(esm_class: int) -> None:
    assert reading(deliver(EXAMPLE, esm_class=esm_class)).receipt is None


def test_a_carrier_that_sets_no_esm_class_is_known_by_its_parameter() -> None:
    found = read(EXAMPLE, esm_class=0, parameters=parameters(b"7F3A\0", 2))
    assert (found.provider_message_id, found.state) == ("7F3A", "delivered")


@pytest.mark.parametrize("esm_class", [0x04, 0x07, 0x44, 0x84, 0xC4])
def test_mode_and_features_do_not_hide_a_receipt(esm_class: int) -> None:
    assert read(EXAMPLE, esm_class=esm_class).provider_message_id == "0123456789"


def test_of_a_field_written_twice_the_first_counts() -> None:
    found = read("id:1 id:2 stat:DELIVRD stat:UNDELIV err:000 err:069")
    assert (found.provider_message_id, found.code) == ("1", "DELIVRD 000")


def test_what_is_taken_over_is_bounded() -> None:
    in_text = read(f"id:{'9' * 300} stat:{'S' * 300} err:{'E' * 300}")
    assert len(in_text.provider_message_id) == ID_MAX
    assert in_text.code == "S" * STAT_MAX + " " + "E" * ERR_MAX
    assert len(read(parameters=parameters(b"9" * 5000, 2)).provider_message_id) == ID_MAX
    payload = {Tag.message_payload: b" " * 60_000 + b"id:1 stat:DELIVRD"}
    assert reading(deliver(parameters=payload)).receipt is None
    assert len(read("id:1", source="9" * 5000).to) == TO_MAX


def test_the_recipients_number_is_digits_only() -> None:
    assert read("id:1", source="+98 912-123").to == "98912123"
    assert read("id:1", source="98912-123²").to == ""


@given(
    st.one_of(
        st.binary(max_size=254),
        st.lists(
            st.sampled_from(["id", "stat", "err", "text", ":", " ", "DELIVRD", "sub", "\0", "1", "x" * 300]),
            max_size=60,
        ).map(lambda words: "".join(words).encode()),
    ),
    st.sampled_from([0, RECEIPT, INTERMEDIATE, 0x44, 0xFF]),
    st.sampled_from([0, 3, 8]),
    st.dictionaries(st.sampled_from([int(tag) for tag in Tag]), st.binary(max_size=2000), max_size=4),
    st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=64),
    st.booleans(),
)
def test_whatever_comes_is_bounded_or_no_receipt(
    raw: bytes, esm_class: int, data_coding: int, values: dict[int, bytes], source: str, by_text: bool
) -> None:
    m = ShortMessage(
        esm_class=esm_class, data_coding=data_coding, short_message=raw, parameters=values, source=source
    )
    found = reading(m, receipts_by_text=by_text).receipt
    if found is not None:
        assert 0 < len(found.provider_message_id) <= ID_MAX
        assert len(found.code) <= STAT_MAX + 1 + ERR_MAX
        # A number in which anything but digits stands may be hidden in part; it is no evidence.
        assert found.to in ("", "".join(c for c in source if c in "0123456789"))


# -- what providers do with the octets


@pytest.mark.parametrize("codec", ["ascii", "utf-16-be", "utf-16-le", "utf-16"])
@pytest.mark.parametrize("data_coding", [0, 1, 3, 4, 8, 0x18, 0xF6])
@pytest.mark.parametrize("esm_class", [0x04, 0x44])
def test_the_octets_say_how_the_text_is_written(codec: str, data_coding: int, esm_class: int) -> None:
    found = read(EXAMPLE.encode(codec), data_coding=data_coding, esm_class=esm_class)
    assert (found.provider_message_id, found.code) == ("0123456789", "DELIVRD 000")


@pytest.mark.parametrize("codec", ["utf-16-be", "utf-16-le"])
def test_a_text_that_begins_in_another_script_is_read(codec: str) -> None:
    text = "text:سلام دنیا id:42 stat:UNDELIV err:1".removeprefix("text:")
    assert read(text.encode(codec), data_coding=8).code == "UNDELIV 1"
    header = b"\x05\0\x03\x01\x01\x01"
    assert read(header + text.encode(codec), data_coding=8, esm_class=0x44).provider_message_id == "42"


def test_a_receipt_in_the_default_alphabet_keeps_its_id() -> None:
    raw = unpacked("id:a_b$c{d} stat:DELIVRD err:000")
    assert read(raw).provider_message_id == "a_b$c{d}"
    assert read(packed(raw)).provider_message_id == "a_b$c{d}"
    assert read(b"id:a_b$c{d} stat:DELIVRD").provider_message_id == "a_b$c{d}"
    latin = read(b"id:a\x11b stat:DELIVRD", {"default_alphabet": "latin1"})
    assert latin.provider_message_id == "a\x11b"


def test_a_text_in_the_payload_counts_when_the_short_message_says_nothing() -> None:
    payload = {Tag.message_payload: EXAMPLE.encode()}
    assert read("\0", parameters=payload).provider_message_id == "0123456789"


@pytest.mark.parametrize(
    "text",
    [
        'id:"7F3A" stat:DELIVRD err:"000"',
        "id:'7F3A', sub:001, stat:DELIVRD, err:000, text:x",
        "id:7F3A,sub:001,dlvrd:001,submit date:26,done date:26,stat:DELIVRD,err:000,text:x",
        "id:7F3A; stat:DELIVRD; err:000;",
        "id:7F3A sub:001 dlvrd:001 submit date:26 done date:26 status:DELIVRD err:000 text:",
    ],
)
def test_quotes_and_commas_are_no_part_of_a_value(text: str) -> None:
    found = read(text)
    assert (found.provider_message_id, found.code) == ("7F3A", "DELIVRD 000")


@pytest.mark.parametrize("raw", [b'"7F3A"\0', b"7F3A   \0", b"'7F3A'"])
def test_blanks_and_quotes_are_no_part_of_the_parameters_id(raw: bytes) -> None:
    assert read(parameters=parameters(raw, 2)).provider_message_id == "7F3A"


def test_the_setting_says_which_of_two_ids_counts() -> None:
    both = {"parameters": parameters(b"7F3A\0", 2)}
    assert read("id:32570 stat:DELIVRD", **both).provider_message_id == "7F3A"
    text_first = {"receipt_id_from": "text"}
    assert read("id:32570 stat:DELIVRD", text_first, **both).provider_message_id == "32570"
    assert read("stat:DELIVRD", text_first, **both).provider_message_id == "7F3A"


# -- states


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("UNDELIVRD", "undelivered"), ("UNDLIVRD", "undelivered"), ("REJECT", "undelivered"),
        ("REJECTED", "undelivered"), ("FAILED", "undelivered"), ("EXPIRD", "undelivered"),
        ("SKIPPED", "undelivered"), ("DELIVERED", "delivered"), ("DLIVRD", "delivered"),
        ("BUFFRED", "pending"), ("ACCEPTED", "pending"), ("UNKNOWN", "pending"),
    ],
)  # fmt: skip
def test_words_that_providers_spell_otherwise_are_known(word: str, state: str) -> None:
    found = reading(deliver(f"id:1 stat:{word}"))
    assert found.receipt is not None
    assert (found.receipt.state, found.problem) == (state, None)


@pytest.mark.parametrize(
    ("number", "code", "state"), [(0, "SCHEDULED", "pending"), (9, "SKIPPED", "undelivered")]
)
def test_numbers_of_later_versions_are_known(number: int, code: str, state: str) -> None:
    found = reading(deliver(parameters=parameters(b"1\0", number)))
    assert found.receipt is not None
    assert (found.receipt.state, found.receipt.code, found.problem) == (state, code, None)


@pytest.mark.parametrize(
    ("text", "values", "code"),
    [
        ("id:1 stat:BLACKLISTED_NUMBER err:7", {}, "BLACKLISTED_NUMB 7"),
        ("", parameters(b"1\0", 42), "42"),
        ("id:1 stat:42", {}, "42"),
        ("id:1 err:7", {}, "7"),
    ],
)
def test_a_state_that_nobody_knows_is_pending_and_said(
    text: str, values: dict[int, bytes], code: str
) -> None:
    found = reading(deliver(text, parameters=values))
    assert found.receipt is not None
    assert (found.receipt.state, found.receipt.code) == ("pending", code)
    assert found.problem is ProblemKind.receipt_state


@pytest.mark.parametrize("value", [b"\x00\x05", b"UNDELIV\0", b"5\0"])
def test_a_state_parameter_of_another_form_counts_when_the_text_has_none(value: bytes) -> None:
    assert read("id:1", parameters={Tag.message_state: value}).state == "undelivered"


def test_the_providers_own_states_count_before_all_others() -> None:
    own = {"states": StatesTable(delivered=["Arrived", 42], undelivered=["BLACK*"], pending=["DELIVRD"])}
    assert read("id:1 stat:ARRIVED", own).state == "delivered"
    assert read("id:1 stat:arrived", own).state == "delivered"
    assert read("id:1 stat:42", own).state == "delivered"
    assert read("id:1", own, parameters=parameters(state=42)).state == "delivered"
    assert read("id:1 stat:BLACKLISTED_NUMBER", own).state == "undelivered"
    assert read("id:1 stat:BLACKLISTED_NUMBER", own, parameters=parameters(state=2)).state == "pending"
    assert read("id:1 stat:DELIVRD", own).state == "pending"
    assert read("id:1 stat:UNDELIV", own).state == "undelivered"


# -- receipts that are not marked as such


def test_a_text_in_the_form_of_a_receipt_is_one_only_by_the_setting() -> None:
    unmarked = deliver(EXAMPLE, esm_class=0)
    assert reading(unmarked) == Reading(None, ProblemKind.receipt_unmarked)
    found = reading(unmarked, receipts_by_text=True)
    assert found.receipt is not None
    assert (found.receipt.provider_message_id, found.receipt.state) == ("0123456789", "delivered")
    wide = deliver(EXAMPLE.encode("utf-16-be"), esm_class=0, data_coding=8)
    assert reading(wide, receipts_by_text=True).receipt is not None


@pytest.mark.parametrize("text", ["", "Hello", "id:1", "stat:DELIVRD", "text:id:1 stat:DELIVRD", "my id: 7"])
def test_no_other_text_is_one_whatever_the_setting_says(text: str) -> None:
    assert reading(deliver(text, esm_class=0), receipts_by_text=True) == Reading(None, None)


@pytest.mark.parametrize("esm_class", [0x08, 0x10, 0x18])
def test_what_a_handset_acknowledges_is_no_receipt_by_any_setting(esm_class: int) -> None:
    assert reading(deliver(EXAMPLE, esm_class=esm_class), receipts_by_text=True) == Reading(None, None)


def test_a_state_parameter_marks_a_receipt_as_the_id_does() -> None:
    found = reading(deliver("id:1", esm_class=0, parameters=parameters(state=2))).receipt
    assert found is not None
    assert (found.provider_message_id, found.state) == ("1", "delivered")
