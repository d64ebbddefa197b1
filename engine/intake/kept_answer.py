"""The answer to a submission, packed to be kept with its Idempotency-Key.

What is kept holds the whole answer, and needs neither the request nor the prices of that time. It is
the id of the first message, from which the ids of the others follow by their place, and the rest of the
outcomes; outcomes that are equal are kept once. A message takes about 30 bytes, and so does a batch
whose messages are all alike. What is longer is deflated.

Wire format: a byte, 1 for plain and 2 for deflated (RFC 1950), then a MessagePack array
[id of the first message, 16 bytes; shapes; runs]. Runs are pairs of numbers: how many outcomes in a
row have which shape. A shape is an array, of 4 when refused and of 5 when accepted, and of 6 when smart
encoding has replaced characters: see the code. (A version that does not know that cannot read the answer,
and says so.)
The version before this one kept the answer as it was sent, JSON; its first byte is another.

What is read may have been damaged, or written by a version that is not known yet: then it is `Unreadable`,
whatever its bytes are.
"""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Sequence
from itertools import groupby
from typing import Annotated, Any

import msgspec

from engine.errors import Broken, Refusal
from engine.records import QUEUES, Accepted

Outcome = Accepted | Refusal

_PLAIN, _DEFLATED = b"\x01", b"\x02"
# Deflating less gains nothing.
_DEFLATE_MIN = 100
_STATUSES = ("accepted", "scheduled")
_ENCODINGS = ("GSM-7", "UCS-2")
# See `ids.MessageIds`: the low 48 bits count up, and wrap.
_COUNTER = (1 << 48) - 1

# What the version before kept begins with one of these.
_JSON = (b"{", b"[")

_Place = Annotated[int, msgspec.Meta(ge=0)]
_Flag = Annotated[int, msgspec.Meta(ge=0, le=1)]
# A shape by its length: of a message that was refused, and of one that was accepted.
_SHAPES: dict[int, Any] = {
    4: tuple[str, int, str, str | None],
    5: tuple[_Flag, _Flag, _Place, _Flag, _Place],
    6: tuple[_Flag, _Flag, _Place, _Flag, _Place, _Place],
}
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(
    tuple[Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)], list[list[Any]], list[_Place]]
).decode


class Unreadable(ValueError):
    """The bytes are no answer that was kept."""


def pack(outcomes: Sequence[Outcome]) -> bytes:
    """Pack the outcomes of one submission; at least one of them must be accepted.

    Raises Broken when the ids do not follow one another.
    """
    first = None
    shapes: dict[tuple[Any, ...], int] = {}
    places: list[int] = []
    for place, outcome in enumerate(outcomes):
        places.append(shapes.setdefault(_shape(outcome), len(shapes)))
        if isinstance(outcome, Accepted):
            number = _moved(uuid.UUID(outcome.id).int, -place)
            if first is None:
                first = number
            elif number != first:
                raise Broken(f"The id {outcome.id} does not follow from those before it.")
    assert first is not None
    runs = [n for shape, run in groupby(places) for n in (len(list(run)), shape)]
    packed = _encode((first.to_bytes(16, "big"), list(shapes), runs))
    return _PLAIN + packed if len(packed) < _DEFLATE_MIN else _DEFLATED + zlib.compress(packed)


def unpack(kept: bytes, count: int) -> list[Outcome] | None:
    """The `count` outcomes that `pack` was given; None: `kept` is an answer as the version before this one
    kept it.

    Raises Unreadable.
    """
    try:
        if kept.startswith(_JSON):
            msgspec.json.decode(kept)
            return None
        return _outcomes(_decode(_plain(kept)), count)
    except (msgspec.DecodeError, zlib.error, IndexError, RecursionError, ValueError) as e:
        raise Unreadable(str(e)) from e


def _plain(kept: bytes) -> bytes:
    form, packed = kept[:1], kept[1:]
    if form == _DEFLATED:
        return zlib.decompress(packed)
    if form != _PLAIN:
        raise Unreadable(f"its form {form.hex()!r} is not known")
    return packed


def _outcomes(packed: tuple[bytes, list[list[Any]], list[int]], count: int) -> list[Outcome]:
    first, shapes, runs = packed
    # Before anything is repeated as often as a damaged number says.
    if sum(runs[::2]) != count:
        raise Unreadable(f"how many outcomes it has is not {count}")
    number = int.from_bytes(first)
    known = [msgspec.convert(shape, _SHAPES.get(len(shape), _SHAPES[5])) for shape in shapes]
    outcomes: list[Outcome] = []
    for run, shape in zip(runs[::2], runs[1::2], strict=True):
        for _ in range(run):
            outcomes.append(_outcome(known[shape], _moved(number, len(outcomes))))
    return outcomes


def _moved(number: int, places: int) -> int:
    """The id so many places further on."""
    return number & ~_COUNTER | (number + places) & _COUNTER


def _shape(outcome: Outcome) -> tuple[Any, ...]:
    if isinstance(outcome, Refusal):
        return outcome.code, int(outcome.status), outcome.detail, outcome.field
    shape = (
        _STATUSES.index(outcome.status),
        QUEUES.index(outcome.queue),
        outcome.segments,
        _ENCODINGS.index(outcome.encoding),
        outcome.units,
    )
    return (*shape, outcome.replaced) if outcome.replaced else shape


def _outcome(shape: tuple[Any, ...], number: int) -> Outcome:
    if len(shape) == 4:
        return Refusal(*shape)
    status, queue, segments, encoding, units, *replaced = shape
    return Accepted(
        id=str(uuid.UUID(int=number)),
        status=_STATUSES[status],  # type: ignore[arg-type]
        queue=QUEUES[queue],
        segments=segments,
        encoding=_ENCODINGS[encoding],  # type: ignore[arg-type]
        units=units,
        replaced=replaced[0] if replaced else 0,
    )
