"""What a flush lets in is written as the records of the engine are."""

from __future__ import annotations

from itertools import groupby

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import bundle_format, message_format
from engine.activity.row import row_of
from engine.records import QUEUES, Addressed, Message, ScheduledMessage, Submission
from engine.stores.redis._portion import Portion

_TEXTS = st.one_of(
    st.text(alphabet=st.characters(codec="utf-8"), max_size=300),
    st.sampled_from(["", "a" * 31, "a" * 32, "a" * 255, "a" * 256, "é" * 40_000]),
)
_NUMBERS = st.one_of(
    st.integers(1, (1 << 62) - 1),
    st.sampled_from([n for bits in (7, 8, 16, 32) for n in ((1 << bits) - 1, 1 << bits)]),
)
_MESSAGES = st.builds(
    Message,
    id=st.uuids().map(str), organisation_id=_NUMBERS, to=_TEXTS, text=_TEXTS, sender=_TEXTS,
    encoding=st.sampled_from(["GSM-7", "UCS-2"]), segments=st.integers(1, 10), units=_NUMBERS,
    accepted_at_us=_NUMBERS, expires_at_us=_NUMBERS, attempts=st.integers(0, 300), reference=_TEXTS,
    tried=st.lists(st.sampled_from(["a", "b"]), max_size=2).map(tuple), unknown_sends=st.integers(0, 300),
    callback_url=_TEXTS,
)  # fmt: skip
_SUBMISSIONS = st.builds(
    lambda organisation_id, units, addressed: Submission(
        organisation_id=organisation_id, units=units, messages=addressed
    ),
    st.sampled_from([7, 8, 1 << 40]),
    st.integers(0, 1 << 40),
    st.lists(
        st.builds(
            Addressed,
            queue=st.sampled_from(QUEUES),
            message=_MESSAGES,
            due_at_us=st.one_of(st.just(0), st.just(0), _NUMBERS),
        ),
        max_size=6,
    ),
)


def _row(addressed: Addressed, *, texts: bool) -> bytes:
    """The row of an acceptance, as any other row is made."""
    m, due_at_us = addressed.message, addressed.due_at_us
    row = row_of(
        m, m.id, addressed.queue, "scheduled" if due_at_us else "accepted", m.accepted_at_us,
        due_at_us=due_at_us, expires_at_us=m.expires_at_us,
    )  # fmt: skip
    values = [getattr(row, name) for name in row.__struct_fields__[:-2]]
    return msgspec.msgpack.encode([*values, m.text] if texts else values)


def _octets(message: Message) -> int:
    return len(bundle_format.record(message.segments, message_format.packed(message)))


def _runs(messages: list[Message]) -> list[list[Message]]:
    """Messages of one organisation as they may go to its list together: one, or fours of up to 1,250 octets,
    as if all four were of the size of the first; or up to 1,500 octets."""
    runs: list[list[Message]] = []
    for message in messages:
        before, own = sum(map(_octets, runs[-1])) if runs else 0, _octets(message)
        whole = not runs or len(runs[-1]) % 4 == 0
        if not runs or (before + 4 * own > 1250 if whole else before + own > 1500):
            runs.append([])
        runs[-1].append(message)
    return runs


def _arguments(submissions: list[Submission], *, texts: bool) -> list[object]:
    """What `Portion.arguments` gives, put together from the records."""
    units: dict[int, int] = {}
    for submission in submissions:
        of = submission.organisation_id
        units[of] = units.get(of, 0) + submission.units
    every = [(s.organisation_id, a) for s in submissions for a in s.messages]
    pieces: dict[str, list[list[tuple[int, Message]]]] = {queue: [] for queue in QUEUES}
    closed: list[tuple[str, list[tuple[int, Message]]]] = []
    for organisation_id, one in every:
        if one.due_at_us:
            continue
        of_queue = pieces[one.queue]
        size = sum(len(message_format.packed(m)) for _, m in of_queue[-1]) if of_queue else 0
        own = len(message_format.packed(one.message))
        is_full = of_queue and (
            len(of_queue[-1]) == bundle_format.MESSAGES_MAX or size + own > bundle_format.OCTETS_MAX
        )
        if is_full:
            closed.append((one.queue, of_queue[-1]))
        if is_full or not of_queue:
            of_queue.append([])
        of_queue[-1].append((organisation_id, one.message))
    closed += [(queue, pieces[queue][-1]) for queue in QUEUES if pieces[queue]]
    bundles: list[object] = []
    for queue, messages in closed:
        index: list[object] = []
        for organisation_id, own in groupby(messages, lambda m: m[0]):
            for run in _runs([m for _, m in own]):
                octets = sum(map(_octets, run))
                index += (str(organisation_id), len(run), sum(m.segments for m in run), octets)
        records = b"".join(bundle_format.record(m.segments, message_format.packed(m)) for _, m in messages)
        bundles += (queue[:1].encode(), len(messages), msgspec.msgpack.encode(index), records)
    dues: list[object] = []
    for _, one in every:
        if one.due_at_us:
            message = ScheduledMessage(**msgspec.structs.asdict(one.message), due_at_us=one.due_at_us)
            dues += (one.queue[:1].encode(), one.due_at_us, message_format.packed(message))
    return [
        3, b"kept", msgspec.msgpack.encode([v for pair in units.items() for v in pair]), len(every),
        b"".join(_row(one, texts=texts) for _, one in every), len(closed), len(dues) // 3, *bundles, *dues,
    ]  # fmt: skip


def _written(submissions: list[Submission], *, texts: bool) -> list[object]:
    portion = Portion(3, b"kept", texts)
    for submission in submissions:
        portion.add(submission)
    return [*portion.arguments()]


@given(st.lists(_SUBMISSIONS, min_size=1, max_size=5), st.booleans())
def test_messages_and_rows_are_written_octet_by_octet_as_their_records_are(
    submissions: list[Submission], texts: bool
) -> None:
    assert _written(submissions, texts=texts) == _arguments(submissions, texts=texts)


@pytest.mark.parametrize("count", [bundle_format.MESSAGES_MAX, bundle_format.MESSAGES_MAX + 1, 120])
@pytest.mark.parametrize("characters", [10, 900, 40_000])
def test_a_bundle_has_as_many_messages_as_it_may(count: int, characters: int) -> None:
    message = Message(
        id="01a202a3-c111-7fd3-92d4-9ad3082ddfbb", organisation_id=7, to="+4915112345678", sender="",
        text="a" * characters, encoding="GSM-7", segments=1, units=1, accepted_at_us=1, expires_at_us=2,
    )  # fmt: skip
    messages = [Addressed(queue="normal", message=message)] * count
    submissions = [Submission(organisation_id=7, messages=messages, units=count)]
    assert _written(submissions, texts=False) == _arguments(submissions, texts=False)


def test_a_message_of_a_newer_version_keeps_the_fields_that_are_not_known_here() -> None:
    known = [
        "01a202a3-c111-7fd3-92d4-9ad3082ddfbb", 7, "+4915112345678", "hello", "", "GSM-7", 1, 1, 1, 2, 0, "",
        [], 0, "", 0, "new",
    ]  # fmt: skip
    message = message_format.unpacked(msgspec.msgpack.encode(known))
    submissions = [
        Submission(organisation_id=7, messages=[Addressed(queue="normal", message=message)], units=1)
    ]
    written = _written(submissions, texts=False)
    assert written == _arguments(submissions, texts=False)
    assert written[-1] == bundle_format.record(1, msgspec.msgpack.encode(known))
