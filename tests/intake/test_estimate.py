"""An estimate says what a message would come to, and smart encoding changes what GSM-7 has an equal for."""

from __future__ import annotations

from functools import partial

import pytest

from engine.errors import Closed, Refusal
from engine.intake.addressing import Addressing
from engine.intake.estimate import Estimate, Forcing, SmartEncoding, estimated
from engine.intake.pricing import PriceTable
from engine.intake.segments import measure
from engine.intake.smart_encoding import replaced
from engine.records import Addressed, MessageDraft, Queue

VALIDITY_S: dict[Queue, int] = {"express": 300, "normal": 86400}
ADDRESS = Addressing(PriceTable({"": 1, "+49": 3}), VALIDITY_S).address
NOW_US = 1_800_000_000_000_000


def no_check() -> None:
    """Everything is taken in."""


def estimate(available: int = 100, **fields: object) -> Estimate:
    draft = MessageDraft(**{"to": "+4915112345678", "text": "x", **fields})  # type: ignore[arg-type]
    return estimated(draft, partial(ADDRESS, 7, "", draft, NOW_US), no_check, available)


def test_it_names_the_character_that_makes_a_text_ucs2() -> None:
    text = "It\u2019s here"
    found = estimate(text=text)
    assert found.forced_by == Forcing(character="\u2019", name="U+2019 RIGHT SINGLE QUOTATION MARK", at=2)
    assert (found.encoding, found.segments, found.characters) == ("UCS-2", 1, 9)
    assert found.smart_encoding == SmartEncoding(encoding="GSM-7", segments=1)
    smart = estimate(text=text, smart_encoding=True)
    assert (smart.encoding, smart.forced_by, smart.replaced, smart.smart_encoding) == ("GSM-7", None, 1, None)


def test_it_says_what_the_message_costs_and_whether_there_is_credit() -> None:
    found = estimate(text="x" * 161, available=6)
    assert (found.segments, found.price, found.units, found.available, found.refusal) == (2, 3, 6, 6, None)
    refusal = estimate(text="x" * 161, available=5).refusal
    assert isinstance(refusal, Refusal)
    assert refusal.code == "insufficient_credit"


def test_it_says_why_the_message_would_not_be_taken() -> None:
    found = estimate(to="nobody")
    assert isinstance(found.refusal, Refusal)
    assert (found.refusal.field, found.units, found.segments) == ("to", None, 1)
    too_long = estimate(text="\u0633" * 2000)
    assert isinstance(too_long.refusal, Refusal)
    assert too_long.segments == 30

    def closed() -> None:
        raise Closed("queue_drained", "The queue is being drained.", 30.0)

    draft = MessageDraft(to="+4915112345678", text="x")
    drained = estimated(draft, partial(ADDRESS, 7, "", draft, NOW_US), closed, 100)
    assert isinstance(drained.refusal, Closed)


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("\u201cHi\u201d \u2013 it\u2019s\u00a05\u202fkm", '"Hi" - it\'s 5 km'),
        # What needs UCS-2 all the same stays as it is, and so does what needs nothing.
        ("\u201c\u0633\u201d", "\u201c\u0633\u201d"),
        ("plain `tick`", "plain `tick`"),
        ("plain", "plain"),
    ],
)
def test_smart_encoding_replaces_quotes_dashes_and_spaces_alone(text: str, sent: str) -> None:
    plain, count = replaced(text)
    assert plain == sent
    assert count == sum(a != b for a, b in zip(text, sent, strict=True))


def test_a_message_is_sent_with_what_was_replaced_only_when_that_is_wanted() -> None:
    text = "\u201c" + "x" * 99 + "\u201d"
    for smart, sent, count in ((None, text, 0), (False, text, 0), (True, '"' + "x" * 99 + '"', 2)):
        draft = MessageDraft(to="+4915112345678", text=text, smart_encoding=smart)
        addressed = ADDRESS(7, "id", draft, NOW_US)
        assert isinstance(addressed, Addressed)
        assert (addressed.message.text, addressed.replaced) == (sent, count)
        assert addressed.message.segments == measure(sent).segments
