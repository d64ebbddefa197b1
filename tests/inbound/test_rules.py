"""Words, routes and parts of inbound messages."""

from __future__ import annotations

import random

import pytest

from engine.inbound.assembly import assemble
from engine.inbound.records import InboundPart, InboundRoute, KeptPart
from engine.inbound.routes import RouteTable
from engine.inbound.settings import DEFAULTS, Inbound, Words
from engine.inbound.words import WordList, keyword
from engine.stream_id import StreamId

TEXT = "Grüße 😀 an alle"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("STOP", ("stop", "")),
        (" stop. ", ("stop", "")),
        ("“Stop!”", ("stop", "")),
        ("Stop  all", ("stop", "")),
        ("Stop🛑", ("stop", "")),
        ("STOP ❗️ 🙏", ("stop", "")),
        ("‘Stop’", ("stop", "")),
        ("«stop»", ("stop", "")),
        ("Stop\u200b", ("stop", "")),
        ("\u200fلغو؟", ("stop", "")),
        ("opt-out", ("stop", "")),
        ("🛑 stop pizza", ("stop", "PIZZA")),
        ("🍕 please do not stop", ("", "")),
        ("arrêt", ("stop", "")),
        ("ARRE\u0302T", ("stop", "")),
        ("baja", ("stop", "")),
        ("لغو11", ("stop", "")),
        ("ＳＴＯＰ", ("stop", "")),
        ("stop pizza", ("stop", "PIZZA")),
        ("Start", ("start", "")),
        ("help", ("help", "")),
        ("please do not stop", ("", "")),
        ("stop it now", ("", "")),
        ("", ("", "")),
        ("?!", ("", "")),
    ],
)
def test_a_text_asks_for_something_when_it_is_a_word_and_nothing_else(
    text: str, found: tuple[str, str]
) -> None:
    assert WordList(DEFAULTS).find(text)[:2] == found


def test_the_words_of_a_language_stand_in_place_of_its_defaults() -> None:
    words = WordList(Inbound(words={"en": Words(stop=["HALT"]), "xx": Words(stop=["zx"])}).all_words())
    assert [words.find(text).action for text in ("halt", "stop", "zx", "baja")] == [
        "stop",
        "",
        "stop",
        "stop",
    ]
    both = WordList({"a": Words(stop=["END"]), "b": Words(start=["END"], help=["END"])})
    assert both.find("end").action == "stop"


def test_a_message_is_routed_by_number_and_first_word() -> None:
    routes = RouteTable(
        [
            InboundRoute(number="12345", organisation_id=1),
            InboundRoute(number="12345", keyword="PIZZA", organisation_id=2),
            InboundRoute(number="777", keyword="A", organisation_id=3),
            InboundRoute(number="777", keyword="B", organisation_id=4),
        ]
    )
    asked = [("12345", "hi"), ("12345", "pizza, now"), ("777", "a"), ("777", "c"), ("9", "a"), ("12345", "")]
    assert [routes.find(*one) for one in asked] == [
        (1, ""), (2, "PIZZA"), (3, "A"), (0, ""), (0, ""), (1, ""),
    ]  # fmt: skip
    meant = [("12345", ""), ("12345", "PIZZA"), ("777", ""), ("777", "B"), ("12345", "IT"), ("9", "")]
    assert [routes.meant(*one) for one in meant] == [[1], [2], [3, 4], [4], [], []]
    assert keyword(" «pizza»  2") == "«PIZZA»"


def kept(
    ms: int, octets: bytes, part: int = 1, parts: int = 1, reference: str = "", at_us: int = 0
) -> KeptPart:
    made = InboundPart(
        provider="a", sender="+4915112345678", recipient="1", utf16=octets, at_us=at_us, reference=reference,
        part=part, parts=parts,
    )  # fmt: skip
    return KeptPart(StreamId(ms, 0), made)


def test_parts_are_put_together_in_whatever_order_they_come() -> None:
    octets = TEXT.encode("utf-16-be")
    # The second cut is within a pair of surrogates.
    cut = [octets[:6], octets[6:14], octets[14:]]
    for seed in range(20):
        rng = random.Random(seed)
        numbered = list(enumerate(cut, 1))
        rng.shuffle(numbered)
        parts = [kept(ms, piece, number, 3, "7") for ms, (number, piece) in enumerate(numbered, 1)]
        parts.insert(1, kept(9, parts[0].part.utf16, parts[0].part.part, 3, "7"))
        parts.append(kept(10, "whole".encode("utf-16-be")))
        parts.append(kept(11, "other".encode("utf-16-be"), 1, 2, "8"))
        found = assemble(parts, 0, 100)
        assert [(m.text, m.missing) for m in found] == [(TEXT, 0), ("whole", 0)]
        assert found[0].stream_ids == tuple(StreamId(ms, 0) for ms in (1, 2, 3, 9))


def test_what_does_not_come_in_time_is_not_waited_for() -> None:
    parts = [
        kept(1, "one".encode("utf-16-be"), 1, 3, "7"),
        kept(2, "three".encode("utf-16-be"), 3, 3, "7", 50),
    ]
    assert assemble(parts, 99, 100) == []
    assert [(m.text, m.missing) for m in assemble(parts, 100, 100)] == [("onethree", 1)]
