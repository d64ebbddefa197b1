"""The row that an event of a message is recorded as."""

from __future__ import annotations

import msgspec
import pytest

from engine.activity.row import acceptance_octets, row_of
from engine.records import ActivityRow, Addressed, Message


@pytest.mark.parametrize("due_at_us", [0, 1_000_500])
def test_the_row_of_an_acceptance_is_as_all_others(due_at_us: int) -> None:
    message = Message(
        id="01a202a3-c111-7fd3-92d4-9ad3082ddfbb",
        organisation_id=7,
        to="+4915112345678",
        text="hello",
        sender="Acme",
        encoding="GSM-7",
        segments=1,
        units=2,
        accepted_at_us=1_000_000,
        expires_at_us=2_000_000,
        reference="order 7",
    )
    row = row_of(
        message,
        message.id,
        "express",
        "scheduled" if due_at_us else "accepted",
        message.accepted_at_us,
        due_at_us=due_at_us,
        expires_at_us=message.expires_at_us,
    )
    addressed = Addressed(queue="express", message=message, due_at_us=due_at_us)
    whole = msgspec.msgpack.decode(msgspec.msgpack.encode(row))
    assert msgspec.msgpack.decode(acceptance_octets(addressed)) == whole[:-2], (
        "the text, and what only attempts have"
    )
    assert msgspec.msgpack.decode(acceptance_octets(addressed, texts=True)) == [*whole[:-2], "hello"]
    assert msgspec.msgpack.decode(acceptance_octets(addressed), type=ActivityRow) == row
