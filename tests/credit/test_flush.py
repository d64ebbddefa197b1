"""Group commit: what gathers, what goes together, what is sent again."""

from __future__ import annotations

from engine.credit.flush import Admitted, Note, Outbox
from engine.records import Addressed, Message, Replay, Submission

_MESSAGE = Message(
    id="0192f0c4-0000-7000-8000-000000000000",
    organisation_id=1,
    to="+4915112345678",
    text="x",
    sender="",
    encoding="GSM-7",
    segments=1,
    units=1,
    accepted_at_us=0,
    expires_at_us=1,
)


def submission(messages: int = 1) -> Submission:
    return Submission(
        organisation_id=1, messages=[Addressed(queue="normal", message=_MESSAGE)] * messages, units=messages
    )


def outbox(messages_max: int = 10) -> Outbox:
    box = Outbox(3, messages_max=messages_max)
    box.registered(5)
    return box


def test_nothing_gathered_is_no_flush() -> None:
    assert outbox().next_flush() is None


def test_what_gathered_goes_as_one_numbered_flush() -> None:
    box = outbox()
    box.add(1, submission())
    box.add(2, submission())
    box.note(Note("request", b"r"))
    flush = box.next_flush()
    assert flush is not None
    assert (flush.shard, flush.epoch, flush.sequence) == (3, 5, 1)
    assert [token for token, _ in flush.submissions] == [1, 2]
    assert flush.notes == [Note("request", b"r")]


def test_only_one_flush_is_under_way_and_the_rest_waits_for_its_outcome() -> None:
    box = outbox()
    box.add(1, submission())
    box.next_flush()
    box.add(2, submission())
    assert box.next_flush() is None
    assert not box.idle
    box.applied(Admitted(1, {}))
    flush = box.next_flush()
    assert flush is not None
    assert flush.sequence == 2


def test_a_flush_is_bounded_in_messages_but_a_larger_submission_still_goes_alone() -> None:
    box = outbox(messages_max=10)
    for token, size in enumerate((6, 6, 25), 1):
        box.add(token, submission(size))
    taken = []
    while (flush := box.next_flush()) is not None:
        taken.append([token for token, _ in flush.submissions])
        box.applied(Admitted(1, {}))
    assert taken == [[1], [2], [3]]


def test_a_repetition_is_told_from_what_was_admitted() -> None:
    box = outbox()
    box.add(1, submission())
    box.add(2, submission())
    box.next_flush()
    replay = Replay(fingerprint=b"f", answer=b"a")
    assert [(e.token, e.replay) for e in box.applied(Admitted(2, {1: replay}))] == [(1, None), (2, replay)]


def test_a_fenced_outbox_names_what_was_not_admitted_and_begins_anew() -> None:
    box = outbox()
    box.add(1, submission())
    box.next_flush()
    box.add(2, submission())
    box.note(Note("request", b"r"))
    assert box.fenced() == [1, 2]
    assert box.idle
    box.registered(7)
    box.add(3, submission())
    flush = box.next_flush()
    assert flush is not None
    assert (flush.epoch, flush.sequence) == (7, 1)


def test_a_flush_that_was_refused_gives_its_submissions_back_and_its_notes_go_on_under_its_number() -> None:
    box = outbox()
    given = submission()
    box.add(1, given)
    box.note(Note("request", b"a"))
    box.note(Note("return", b"b"))
    flush = box.next_flush()
    assert flush is not None
    box.note(Note("request", b"c"))
    assert box.refused() == [(1, given)]
    again = box.next_flush()
    assert again is not None
    assert again.sequence == flush.sequence
    assert again.submissions == []
    assert [note.data for note in again.notes] == [b"a", b"b", b"c"]


def test_a_flush_whose_clients_gave_up_is_sent_without_its_submissions_under_its_number() -> None:
    box = outbox()
    box.add(1, submission())
    box.note(Note("request", b"r"))
    sent = box.next_flush()
    assert sent is not None
    assert box.withdraw() == [1]
    assert box.withdraw() == []
    assert not box.awaited
    again = box.under_way
    assert again is not None
    assert (again.epoch, again.sequence, again.notes) == (sent.epoch, sent.sequence, sent.notes)
    assert (again.submissions, again.withdrawn) == ([], True)
    # Either the first one was applied before, or this one, and then the first one never is.
    [ended] = box.applied(Admitted(1, {}))
    assert (ended.token, ended.applied) == (1, True)
    box.add(2, submission())
    box.next_flush()
    box.withdraw()
    [ended] = box.applied(Admitted(0, {}))
    assert (ended.token, ended.applied) == (2, False)
    assert box.idle


def test_what_waits_can_be_taken_back_and_what_was_sent_cannot() -> None:
    box = outbox()
    given = [submission() for _ in range(4)]
    box.add(1, given[0])
    box.next_flush()
    for token in (2, 3, 4):
        box.add(token, given[token - 1])
    assert box.take_back(1) is None
    assert box.take_back(3) is given[2]
    assert box.take_back(3) is None
    assert box.take_back_all() == [(2, given[1]), (4, given[3])]
    assert box.take_back_all() == []
    assert box.awaited
