"""What many messages come to in one call is what each comes to alone."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from engine.providers.smpp._short_way import accepted_run, pack_submits, take_answers, take_singles
from engine.providers.smpp.body import decode_message_id
from engine.providers.smpp.codes import Command
from engine.providers.smpp.message import OneVerdict, Sending
from engine.providers.smpp.pdu import Pdu, Reader, pack
from engine.providers.smpp.session import Answers, Segment

SUBMIT, ANSWER = int(Command.submit_sm), int(Command.submit_sm_resp)
VERDICTS = [OneVerdict(lambda verdict: None, "smsc") for _ in range(2)]
PLAIN = "0123456789abcdefXYZ-_.:"


def sending(token: int = 1, *, segments: int = 1, verdicts: OneVerdict = VERDICTS[0]) -> Sending:
    return Sending(verdicts, token, [b"body %d" % n for n in range(segments)], 1.0, segments == 1)


@given(st.lists(st.binary(max_size=300), max_size=8), st.sampled_from([0, 1, 255, 0x7FFFFFFE, 0x7FFFFFFF]))
def test_submits_are_packed_as_each_would_be(bodies: list[bytes], last: int) -> None:
    of, pending, pdus = sending(), {}, b""
    segments: list[Segment[Sending]] = [(of, n, body) for n, body in enumerate(bodies)]
    octets, after = pack_submits(segments, pending, last)
    for segment in segments:
        last = last + 1 if last < 0x7FFFFFFF else 1
        pdus += pack(SUBMIT, 0, last, segment[2])
        assert pending[last] is segment
    assert (octets, after, len(pending)) == (pdus, last, len(segments))


pdus = st.builds(
    pack,
    st.sampled_from([ANSWER, ANSWER, ANSWER, int(Command.enquire_link), int(Command.generic_nack)]),
    st.sampled_from([0, 0, 0x58, 0xFFFFFFFF]),
    st.integers(0, 6),
    st.binary(max_size=20),
)


@given(st.lists(pdus, max_size=8), st.binary(max_size=20), st.sets(st.integers(1, 6)))
def test_answers_are_taken_as_they_are_cut_from_the_stream(
    stream: list[bytes], rest: bytes, waiting: set[int]
) -> None:
    chunk = b"".join(stream) + rest
    segments: dict[int, Segment[Sending]] = {n: (sending(n), 0, b"") for n in waiting}
    pending, answers = dict(segments), []
    at = take_answers(chunk, 0, pending, answers)
    expected, end = [], 0
    for pdu in Reader().feed(chunk):
        if not isinstance(pdu, Pdu) or pdu.command_id != ANSWER or pdu.sequence not in waiting:
            break
        waiting.remove(pdu.sequence)
        expected.append((segments[pdu.sequence], pdu.status, pdu.body))
        end += 16 + len(pdu.body)
    assert (answers, at) == (expected, end)
    assert pending.keys() == waiting


bodies = st.one_of(
    st.text(PLAIN, min_size=1, max_size=64).map(lambda text: text.encode() + b"\0"),
    st.sampled_from([b"", b"\0", b"id", b"a\0b\0", "é\0".encode(), b"a,b\0", b" a\0", b"a" * 65 + b"\0"]),
)
answered = st.tuples(
    st.builds(
        sending, st.integers(1, 9), segments=st.sampled_from([1, 1, 1, 2]), verdicts=st.sampled_from(VERDICTS)
    ),
    st.sampled_from([0, 0, 0, 8]),
    bodies,
)


@given(st.lists(answered, max_size=8), st.integers(0, 3))
def test_a_run_is_of_plain_acceptances_for_one_caller(
    given_answers: list[tuple[Sending, int, bytes]], first: int
) -> None:
    answers: Answers[Sending] = [((of, 0, b""), status, body) for of, status, body in given_answers]
    for n, ((of, _, _), _, _) in enumerate(answers):
        of.sent_s = 1.0 + n
    end, verdicts, tokens, ids, latency_us = accepted_run(answers, min(first, len(answers)), 100.0)
    run = given_answers[min(first, len(answers)) : end]
    assert tokens == [of.token for of, _, _ in run]
    assert ids == [decode_message_id(body) for _, _, body in run]
    assert latency_us == [int((100.0 - of.sent_s) * 1e6) for of, _, _ in run]
    assert {id(of.verdicts) for of, _, _ in run} <= {id(verdicts)}
    assert all(of.single and not status and set(body[:-1].decode()) <= set(PLAIN) for of, status, body in run)
    if end < len(answers):
        (of, _, _), status, body = answers[end]
        plain = (
            body[:-1] and body.endswith(b"\0") and len(body) <= 65 and set(body[:-1]) <= set(PLAIN.encode())
        )
        assert status or not of.single or not plain or (run and of.verdicts is not verdicts)


def test_singles_are_taken_up_to_one_that_was_sent_or_has_segments() -> None:
    sent = sending(3)
    sent.sent_s = 0.5
    for other in (sent, sending(3, segments=2)):
        messages, segments = deque([sending(1), sending(2), other]), []
        assert take_singles(messages, 5, 2.0, segments) == 2
        assert [(of.token, part, body, of.sent_s) for of, part, body in segments] == [
            (1, 0, b"body 0", 2.0),
            (2, 0, b"body 0", 2.0),
        ]
        assert list(messages) == [other]
    messages, segments = deque([sending(1), sending(2)]), []
    assert take_singles(messages, 1, 2.0, segments) == 1
    assert [of.token for of in messages] == [2]
