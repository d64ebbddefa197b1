"""What is kept of an answer says the same again, in little room, whatever was answered."""

from __future__ import annotations

from random import Random

import msgspec
import pytest

from engine.api.messages import render_batch, render_one
from engine.errors import Broken, Refusal
from engine.ids import MessageIds
from engine.intake.kept_answer import Outcome, Unreadable, pack, unpack
from engine.records import Accepted

_WRAPPING = (1 << 48) - 3


def accepted(message_id: str, rng: Random | None = None) -> Accepted:
    draw = Random(1) if rng is None else rng
    segments = draw.randrange(1, 11)
    return Accepted(
        id=message_id,
        status=draw.choice(("accepted", "scheduled")),  # type: ignore[arg-type]
        queue=draw.choice(("express", "normal")),  # type: ignore[arg-type]
        segments=segments,
        encoding=draw.choice(("GSM-7", "UCS-2")),  # type: ignore[arg-type]
        units=segments * draw.choice((1, 7, 1_000_000)),
    )


def outcomes(rng: Random, count: int, refused: float) -> list[Outcome]:
    """Of a batch; some are refused, each for a reason of its own, but never all."""
    found: list[Outcome] = [
        Refusal("invalid_field", 422, f"`validity` must be from 1 to {rng.random()} seconds.", "validity")
        if rng.random() < refused
        else accepted(message_id, rng)
        for message_id in MessageIds(rng.getrandbits(26), _WRAPPING).make(1_790_000_000_000, count)
    ]
    if all(isinstance(outcome, Refusal) for outcome in found):
        found[-1] = accepted(MessageIds(0, 0).make(1_790_000_000_000, 1)[0])
    return found


@pytest.mark.parametrize("seed", range(20))
def test_a_repetition_is_answered_byte_for_byte_as_the_first_time(seed: int) -> None:
    rng = Random(seed)
    for count, refused in ((1, 0.0), (2, 0.5), (40, 0.3), (500, 0.02), (1000, 0.9)):
        first = outcomes(rng, count, refused)
        again = unpack(pack(first), len(first))
        assert again is not None
        assert render_batch(again) == render_batch(first)
        if count == 1:
            assert render_one(again) == render_one(first)


def test_a_refusal_without_a_field_comes_back_without_one() -> None:
    message_id = MessageIds(1, 1).make(1_790_000_000_000, 2)[1]
    first: list[Outcome] = [Refusal("insufficient_credit", 402, "Too little."), accepted(message_id)]
    again = unpack(pack(first), len(first))
    assert again is not None
    assert render_batch(again) == render_batch(first)


def test_a_batch_whose_messages_are_alike_takes_as_little_as_one_message() -> None:
    ids = MessageIds(1, _WRAPPING).make(1_790_000_000_000, 1000)
    assert len(pack([accepted(i) for i in ids[:1]])) <= 40
    assert len(pack([accepted(i) for i in ids])) <= 40


def test_an_answer_as_the_version_before_kept_it_is_told_from_a_packed_one() -> None:
    assert unpack(b'{"id":"01a202a3-c111-7fd3-92d4-9ad3082ddfbb"}', 1) is None


def test_ids_that_do_not_follow_one_another_cannot_be_packed() -> None:
    ids = MessageIds(1, 1).make(1_790_000_000_000, 3)
    with pytest.raises(Broken):
        pack([accepted(ids[0]), accepted(ids[2])])


_KEPT = pack([accepted(MessageIds(1, 1).make(1_790_000_000_000, 1)[0])])


@pytest.mark.parametrize(
    "kept",
    [
        b"", _KEPT[:-1], _KEPT[:1], b"\x02" + _KEPT[1:], b"\x03" + _KEPT[1:], _KEPT + b"\0", b'{"id":"01a2',
        *(
            b"\x01" + msgspec.msgpack.encode(packed)
            for packed in (
                (b"short", [[0, 0, 1, 0, 1]], [1, 0]),
                (bytes(16), [[0, 0, 1, 0, 1]], [1, 1]),
                (bytes(16), [[0, 9, 1, 0, 1]], [1, 0]),
                (bytes(16), [["code", 1, "detail", None]], [1, 0]),
                (bytes(16), [[0, 0, {}, 0, 1]], [1, 0]),
                (bytes(16), [[0, 0]], [1, 0]),
                # As many outcomes as nobody could wait for.
                (bytes(16), [[0, 0, 1, 0, 1]], [1 << 60, 0]),
                (bytes(16), [[0, 0, 1, 0, 1]], [1, 0, 0]),
            )
        ),
    ],
)  # fmt: skip
def test_what_is_no_kept_answer_is_unreadable(kept: bytes) -> None:
    with pytest.raises(Unreadable):
        unpack(kept, 1)
