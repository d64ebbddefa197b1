"""A request as a whole becomes what `Addressing.address` says of each of its messages."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from engine.errors import Refusal, Unavailable
from engine.intake._plain import outcomes_of
from engine.intake.addressing import Addressing
from engine.intake.price_list import PriceList
from engine.intake.pricing import PriceTable
from engine.intake.segments import BASIC, EXTENSION
from engine.records import Accepted, Addressed, MessageDraft, Queue

_NOW_US = 1_700_000_000_000_000
_PRICES = PriceTable({"": 1, "+4": 2, "+49": 3, "+49151": 4, "+98912": 5})
_VALIDITY_S: dict[Queue, int] = {"express": 300, "normal": 86_400}


def _permit(organisation_id: int, to: str, sender: str) -> str:
    """Some have opted out, and senders are given to those that name none."""
    if to.endswith("7"):
        raise Refusal("opted_out", 422, "`to` has opted out of the messages of this organisation.", "to")
    return sender or "Own"


_NUMBERS = st.one_of(
    st.sampled_from(
        [
            "+4915112345678", "+989121234567", "+14155550123", "+33612345678", "+6904123", "+0123456789",
            "+490151123456", "+49 151 12345678", "0049151123456", "+2101234567", "+49151123456789012",
            "\uff0b4915112345678", "+49151\u06601234567", "+\u0661234567890", "", "+", "+4", "+999123456789",
        ]
    ),
    st.from_regex(r"\+[0-9]{6,17}", fullmatch=True),
    st.text(max_size=18),
)  # fmt: skip
_TEXTS = st.one_of(
    st.text(alphabet=BASIC + EXTENSION, max_size=400),
    st.text(alphabet=BASIC, min_size=150, max_size=170),
    st.text(alphabet="سلام ۱۲۳ abc", max_size=150),
    st.text(alphabet=st.characters(codec="utf-8"), max_size=80),
    st.sampled_from(
        ["", "a\0b", "\ud800", "\ud83d", "a" * 1_530, "a" * 1_531, "€" * 160, "س" * 670, "س" * 671, "😀" * 40,
         "a" * 10_001, "س" * 66 + "😀" + "س" * 3, "é" * 160, "\x1b", "ç", "\u03a9" * 160, "\u03aa"]
    ),
)  # fmt: skip
_DRAFTS = st.one_of(
    st.builds(
        MessageDraft,
        to=_NUMBERS,
        text=_TEXTS,
        sender=st.sampled_from(
            [None, "", "Acme", "12345", "+4915112345678", "00491511234567", "much too long"]
        ),
        queue=st.sampled_from([None, "express", "normal"]),
        validity=st.sampled_from([None, None, None, 0, 60]),
        send_at=st.sampled_from([None, None, None, "2023-11-15T00:00:00Z", "yesterday"]),
        reference=st.sampled_from([None, "", "order 7", "a\0", "r" * 200, "r" * 201]),
        callback_url=st.sampled_from([None, None, "", "https://example.com/told", "ftp://x"]),
        smart_encoding=st.sampled_from([None, None, False, True]),
    ),
    st.just(Refusal("invalid_field", 422, "`to` must be a string.", "to")),
)
_PLAIN = MessageDraft(to="+4915112345678", text="Hello")


def _told(found: Addressed | Refusal) -> object:
    """What can be compared."""
    return found.args if isinstance(found, Refusal) else found


@given(st.lists(_DRAFTS, max_size=8), st.booleans(), st.booleans())
@example([_PLAIN, msgspec.structs.replace(_PLAIN, text="\u20ac" * 80)], False, False)
def test_a_request_becomes_what_each_of_its_messages_does(
    drafts: list[MessageDraft | Refusal], asks: bool, is_free: bool
) -> None:
    more: dict[str, Any] = {"permit": _permit} if asks else {}
    addressing = Addressing(_PRICES, _VALIDITY_S, free=lambda organisation_id: is_free and not asks, **more)
    ids = [f"id-{n}" for n in range(len(drafts))]
    each = [addressing.address(7, i, d, _NOW_US) for i, d in zip(ids, drafts, strict=True)]

    found, units = addressing.address_all(7, ids, drafts, _NOW_US)

    assert [*map(_told, found)] == [*map(_told, each)]
    assert units == sum(one.message.units for one in each if isinstance(one, Addressed))


def test_whoever_is_free_is_not_asked_about() -> None:
    asked = []

    def permit(organisation_id: int, to: str, sender: str) -> str:
        asked.append(organisation_id)
        return sender

    addressing = Addressing(_PRICES, _VALIDITY_S, permit, lambda organisation_id: organisation_id == 7)
    addressing.address_all(7, ["a"], [_PLAIN], _NOW_US)
    addressing.address_all(8, ["b"], [_PLAIN], _NOW_US)
    assert asked == [8]


def test_nothing_is_accepted_while_no_prices_are_known() -> None:
    prices = PriceList(None)  # type: ignore[arg-type]
    addressing = Addressing(prices, _VALIDITY_S)
    try:
        found: object = addressing.address_all(7, ["a"], [_PLAIN], _NOW_US)
    except Unavailable:
        found = "unavailable"
    assert found == "unavailable"
    refused, units = addressing.address_all(7, ["a"], [msgspec.structs.replace(_PLAIN, text="")], _NOW_US)
    assert isinstance(refused[0], Refusal)
    assert units == 0


def test_a_caller_is_told_what_was_accepted() -> None:
    addressing = Addressing(_PRICES, _VALIDITY_S)
    drafts = [
        _PLAIN,
        msgspec.structs.replace(_PLAIN, text=""),
        msgspec.structs.replace(_PLAIN, send_at="2023-11-15T00:00:00Z", queue="express"),
        msgspec.structs.replace(_PLAIN, text="\u201cHello\u201d", smart_encoding=True),
    ]
    addressed, _ = addressing.address_all(7, ["a", "b", "c", "d"], drafts, _NOW_US)
    usual: dict[str, Any] = {"segments": 1, "encoding": "GSM-7", "units": 4}
    outcomes, messages = outcomes_of(addressed)
    assert messages == [one for one in addressed if isinstance(one, Addressed)]
    assert outcomes == [
        Accepted(id="a", status="accepted", queue="normal", **usual),
        addressed[1],
        Accepted(id="c", status="scheduled", queue="express", **usual),
        Accepted(id="d", status="accepted", queue="normal", replaced=2, **usual),
    ]
