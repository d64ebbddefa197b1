"""One SMPP session as a state machine: no socket, no clock."""

from __future__ import annotations

from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.providers.smpp.codes import ANSWER, Command, CommandStatus
from engine.providers.smpp.pdu import Pdu, Reader, WrongPdu, pack
from engine.providers.smpp.session import LEAVE_S, Counts, IncomingBatch, Session

TIMEOUT_S, ENQUIRE_S = 5.0, 30.0


class Sent(msgspec.Struct):
    """A message under test, with what became of each of its submits."""

    name: int
    begun_s: float = 0.0
    fates: list[str] = []


def session(now_s: float = 0.0, bound: bool = True) -> tuple[Session[Sent], Counts]:
    counts = Counts()
    made: Session[Sent] = Session(
        Command.bind_transceiver, b"body", counts, timeout_s=TIMEOUT_S, enquire_link_s=ENQUIRE_S
    )
    made.begin(now_s)
    if bound:
        [bind] = written(made)
        made.receive(answer(bind), now_s)
        assert made.state == "bound"
    return made, counts


def written(of: Session[Sent]) -> list[Pdu]:
    """What it has to say, as PDUs; said."""
    pdus = Reader().feed(b"".join(of.out))
    of.written()
    assert all(isinstance(pdu, Pdu) for pdu in pdus)
    return pdus  # type: ignore[return-value]


def answer(request: Pdu, status: int = 0, body: bytes = b"x\0") -> bytes:
    return pack(request.command_id | ANSWER, status, request.sequence, body)


def submit(to: Session[Sent], *sent: Sent) -> None:
    to.submit([(one, 0, b"body %d" % one.name) for one in sent])


def test_it_binds_and_is_bound_by_the_answer() -> None:
    made, _ = session(bound=False)
    [bind] = written(made)
    assert (bind.command_id, bind.status, bind.sequence, bind.body) == (9, 0, 1, b"body")
    states = [made.state]
    made.receive(answer(bind, body=b""), 1.0)
    assert [*states, made.state] == ["binding", "bound"]


@pytest.mark.parametrize("command", [Command.bind_transceiver_resp, Command.generic_nack])
def test_a_refused_bind_ends_it_with_the_status_as_the_reason(command: int) -> None:
    made, counts = session(bound=False)
    [bind] = written(made)
    made.receive(pack(command, CommandStatus.ESME_RINVPASWD, bind.sequence), 1.0)
    assert (made.state, made.reason) == ("ended", "bind-refused-0x0000000E")
    assert counts.binds_refused == 1


def test_a_bind_that_is_not_answered_in_time_ends_it() -> None:
    made, _ = session(bound=False)
    made.tick(TIMEOUT_S - 0.01)
    assert made.state == "binding"
    made.tick(TIMEOUT_S)
    assert (made.state, made.reason) == ("ended", "bind-timeout")


def test_submits_have_numbers_of_their_own_and_answers_find_them() -> None:
    made, counts = session()
    one, two = Sent(1), Sent(2)
    submit(made, one, two)
    first, second = written(made)
    assert [first.body, second.body] == [b"body 1", b"body 2"]
    assert first.sequence != second.sequence
    batch = made.receive(answer(second) + answer(first), 1.0)
    assert [segment[0] for segment, *_ in batch.answers] == [two, one]
    assert not made.pending
    assert made.receive(answer(first), 1.0) == IncomingBatch([], [])
    assert counts.late_responses == 1


def test_sequence_numbers_begin_anew_after_the_last() -> None:
    made, _ = session()
    made._sequence = 0x7FFF_FFFE
    submit(made, Sent(1), Sent(2), Sent(3))
    assert [pdu.sequence for pdu in written(made)] == [0x7FFF_FFFF, 1, 2]


def test_late_submits_are_handed_out_once_wherever_they_stand() -> None:
    made, counts = session()
    young, old = Sent(1, begun_s=8.0), Sent(2, begun_s=3.0)
    submit(made, young, old)
    [_, late] = written(made)
    assert made.overdue(2.9) == []
    assert [segment[0] for segment in made.overdue(3.0)] == [old]
    assert made.overdue(3.0) == []
    assert made.receive(answer(late), 9.0).answers == []
    assert (counts.timeouts, counts.late_responses) == (1, 1)


def test_it_asks_whether_the_carrier_lives_when_nothing_was_heard_and_ends_without_an_answer() -> None:
    made, _ = session()
    made.tick(ENQUIRE_S - 0.01)
    assert written(made) == []
    made.tick(ENQUIRE_S)
    made.tick(ENQUIRE_S + 1)
    assert [pdu.command_id for pdu in written(made)] == [Command.enquire_link]
    made.tick(ENQUIRE_S + TIMEOUT_S)
    assert (made.state, made.reason) == ("ended", "silent")


@pytest.mark.parametrize("what", [Command.enquire_link_resp, Command.enquire_link, Command.submit_sm_resp])
def test_anything_heard_proves_life(what: int) -> None:
    made, _ = session()
    made.tick(ENQUIRE_S)
    made.receive(pack(what, 0, 77), ENQUIRE_S + 1)
    made.tick(ENQUIRE_S + TIMEOUT_S)
    assert made.state == "bound"
    written(made)
    made.tick(2 * ENQUIRE_S + 1)
    assert [pdu.command_id for pdu in written(made)] == [Command.enquire_link]


def test_asked_to_unbind_it_waits_for_its_answers_and_goes() -> None:
    made, _ = session()
    submit(made, Sent(1))
    [sent] = written(made)
    made.receive(pack(Command.unbind, 0, 55), 1.0)
    made.tick(1.1)
    assert (made.state, written(made)) == ("leaving", [])
    assert len(made.receive(answer(sent), 1.2).answers) == 1
    made.tick(1.3)
    assert written(made) == [Pdu(Command.unbind_resp, 0, 55, b"")]
    assert (made.state, made.reason) == ("ended", "unbound")


def test_asked_to_unbind_it_does_not_wait_for_ever() -> None:
    made, _ = session()
    submit(made, Sent(1))
    written(made)
    made.receive(pack(Command.unbind, 0, 55), 1.0)
    made.tick(1.0 + LEAVE_S)
    assert made.state == "ended"
    assert len(made.abandon("closed")[0]) == 1


@pytest.mark.parametrize("reply", [b"", pack(Command.unbind_resp, 0, 2), pack(Command.unbind, 0, 9)])
def test_it_unbinds_and_ends_answered_or_not(reply: bytes) -> None:
    made, _ = session()
    made.unbind(1.0)
    made.unbind(1.0)
    assert [pdu.command_id for pdu in written(made)] == [Command.unbind]
    made.receive(reply, 1.0)
    made.tick(1.0 + TIMEOUT_S)
    assert made.state == "ended"


def test_deliveries_that_come_before_the_answer_to_the_bind_are_taken() -> None:
    made, _ = session(bound=False)
    [bind] = written(made)
    early = Pdu(Command.deliver_sm, 0, 4, b"whatever")
    batch = made.receive(pack(Command.deliver_sm, 0, 4, b"whatever") + answer(bind), 0.0)
    assert (batch.deliveries, made.state) == ([early], "bound")
    made.answer_delivery(early, 0)
    assert written(made) == [Pdu(Command.deliver_sm_resp, 0, 4, b"\0")]


def test_a_carrier_that_does_not_know_the_session_is_left() -> None:
    made, _ = session()
    made.tick(ENQUIRE_S)
    [enquire] = written(made)
    made.receive(answer(enquire, CommandStatus.ESME_RINVBNDSTS, b""), ENQUIRE_S + 1)
    [unbind] = written(made)
    assert (unbind.command_id, made.state) == (Command.unbind, "unbinding")
    made.receive(answer(unbind, CommandStatus.ESME_RINVBNDSTS, b""), ENQUIRE_S + 1)
    assert (made.state, made.reason) == ("ended", "not-bound")


def test_a_nack_of_no_number_answers_the_only_submit_there_is() -> None:
    made, counts = session()
    one, two = Sent(1), Sent(2)
    nack = pack(Command.generic_nack, CommandStatus.ESME_RINVCMDLEN, 0)
    submit(made, one)
    [(segment, status, _)] = made.receive(nack, 1.0).answers
    assert (segment[0], status) == (one, CommandStatus.ESME_RINVCMDLEN)
    submit(made, one, two)
    assert made.receive(nack, 1.0).answers == []
    assert (len(made.pending), counts.generic_nacks) == (2, 2)


def test_what_never_left_is_told_apart_from_what_may_have_arrived() -> None:
    made, _ = session()
    first, second = Sent(1), Sent(2)
    submit(made, first)
    written(made)
    submit(made, second)
    sent, unsent = made.abandon("closed")
    assert [segment[0] for segment in sent] == [first]
    assert [segment[0] for segment in unsent] == [second]
    assert made.abandon("again") == ([], [])
    assert made.reason == "closed"


def test_an_ended_session_says_and_hears_nothing_more() -> None:
    made, _ = session()
    made.receive(b"\0\0\0\1garbage garbage garbage", 1.0)
    assert made.reason == "framing"
    assert [pdu.command_id for pdu in written(made)] == [Command.generic_nack]
    made.answer_delivery(Pdu(Command.deliver_sm, 0, 1, b""), 0)
    made.unbind(2.0)
    made.tick(1000.0)
    assert made.receive(pack(Command.enquire_link, 0, 1), 2.0) == IncomingBatch([], [])
    assert written(made) == []


pdus = st.builds(
    pack,
    st.one_of(st.sampled_from([int(command) for command in Command]), st.integers(0, 0xFFFF_FFFF)),
    st.sampled_from([0, 0, 8, 0x58, 0xFFFF_FFFF]),
    st.integers(0, 12),
    st.binary(max_size=20),
)


@given(st.lists(pdus, max_size=30), st.lists(st.integers(1, 40), max_size=200))
def test_the_stream_means_the_same_however_it_is_cut(stream: list[bytes], cuts: list[int]) -> None:
    """And nothing a carrier can send makes it fail."""
    raw = b"".join(stream)
    whole, whole_counts = session()
    pieces, pieces_counts = session()
    for one in (whole, pieces):
        submit(one, *(Sent(n) for n in range(8)))
        written(one)
    batch = whole.receive(raw, 1.0)
    answers, deliveries, at = [], [], 0
    for cut in [*cuts, len(raw)]:
        some = pieces.receive(raw[at : at + cut], 1.0)
        answers += some.answers
        deliveries += some.deliveries
        at += cut
    assert (answers, deliveries) == (batch.answers, batch.deliveries)
    assert (pieces.state, pieces.reason, pieces.out) == (whole.state, whole.reason, whole.out)
    assert pieces.pending == whole.pending
    assert pieces_counts == whole_counts


# PDUs that end no session.
harmless = st.builds(
    pack,
    st.sampled_from(
        [Command.submit_sm_resp, Command.submit_sm_resp, Command.deliver_sm, Command.enquire_link]
    ),
    st.sampled_from([0, 0, 8, 0xFFFF_FFFF]),
    st.integers(0, 12),
    st.binary(max_size=20),
)


@given(st.lists(harmless, max_size=30), st.binary(max_size=20))
def test_it_cuts_the_stream_as_the_reader_does(stream: list[bytes], rest: bytes) -> None:
    raw = b"".join(stream) + rest
    made, counts = session()
    submit(made, *(Sent(n) for n in range(8)))
    pending = dict(made.pending)
    read = Reader().feed(raw)
    found = made.receive(raw, 1.0)
    answers = [pdu for pdu in read if isinstance(pdu, Pdu) and pdu.command_id == Command.submit_sm_resp]
    expected = [
        (pending.pop(pdu.sequence), pdu.status, pdu.body) for pdu in answers if pdu.sequence in pending
    ]
    assert found.answers == expected
    assert counts.late_responses == len(answers) - len(expected)
    assert found.deliveries == [
        pdu for pdu in read if isinstance(pdu, Pdu) and pdu.command_id == Command.deliver_sm
    ]
    assert (made.reason == "framing") == any(isinstance(pdu, WrongPdu) for pdu in read)


class Driving:
    """Does to a session what a seed says, as a carrier without manners and a busy owner would."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.session, self.counts = session()
        self.now_s = 0.0
        self.sent: list[Sent] = []
        self.seen: list[Pdu] = []

    def step(self) -> None:
        rng, made = self.rng, self.session
        self.now_s += rng.choice([0.0, 0.01, 0.5, 3.0])
        kind = rng.randrange(8)
        if kind < 3 and made.state == "bound":
            messages = [
                Sent(len(self.sent) + n, self.now_s - rng.random(), []) for n in range(rng.randrange(4))
            ]
            self.sent += messages
            submit(made, *messages)
        elif kind < 4:
            self.write()
        elif kind < 6 and self.seen:
            asked = [rng.choice(self.seen) for _ in range(rng.randrange(5))]
            self.end(b"".join([answer(a, rng.choice([0, 8, 0x58]), b"%d" % a.sequence) for a in asked]))
        elif kind < 7:
            made.tick(self.now_s)
            for segment in made.overdue(self.now_s - TIMEOUT_S):
                segment[0].fates.append("late")
        elif rng.random() < 0.3:
            self.end(pack(rng.choice([6, 0x15, 0x80000000, 0x999]), 0, rng.randrange(99)))

    def write(self) -> None:
        if self.session.out:
            self.seen += [pdu for pdu in written(self.session) if pdu.command_id == Command.submit_sm]

    def end(self, batch: bytes) -> None:
        """Whoever reads has written before, as `Connection` does in every turn of the loop."""
        self.write()
        for (sent, _, body), _, answered in self.session.receive(batch, self.now_s).answers:
            assert body == b"body %d" % sent.name
            # A generic_nack that answers it has no body.
            asked = [one for one in self.seen if one.body == body]
            assert asked
            assert not answered or any(b"%d" % one.sequence == answered for one in asked)
            sent.fates.append("answered")


@pytest.mark.parametrize("seed", range(60))
def test_every_submit_has_exactly_one_fate(seed: int) -> None:
    driving = Driving(seed)
    for _ in range(400):
        driving.step()
        if driving.session.state == "ended":
            break
    before = len(driving.session.pending)
    sent, unsent = driving.session.abandon("closed")
    assert before == len(sent) + len(unsent)
    for segment, fate in [(s, "lost") for s in sent] + [(s, "unsent") for s in unsent]:
        segment[0].fates.append(fate)
    assert [one.name for one in driving.sent if len(one.fates) != 1] == []
    seen = {pdu.body for pdu in driving.seen}
    for one in driving.sent:
        assert (b"body %d" % one.name in seen) or one.fates != ["answered"]
        if one.fates == ["unsent"]:
            assert b"body %d" % one.name not in seen
