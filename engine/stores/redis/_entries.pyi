from collections.abc import Sequence

from engine.records import Entry, Message, Queue

def array_of(packed: bytes, fields: int) -> bytes | None:
    """The messages of a bundle as one MessagePack array; None for anything but a whole bundle of messages
    that have up to `fields` fields each."""

def add_entries(
    entries: list[Entry],
    messages: list[Message],
    shard: int,
    queue: Queue,
    entry_id: bytes,
    deliveries: int,
    first_id: bytes,
) -> None:
    """Append an `Entry` for each of `messages`, which are all of one entry, in the order of their places."""

def same_entry(entries: Sequence[Entry], at: int) -> bool:
    """Whether all messages of an entry stand from `at` on in the order of their places, as they were read:
    with the same object as their id."""

def add_captured(units: dict[int, list[int]], entries: Sequence[Entry], rows: Sequence[bytes]) -> list[int]:
    """Add the units of each of these messages of one entry, which are captured, to the first sum of its
    organisation; what each settlement alone would be, as for `settle` in functions/queue."""

def captured_alone(
    units: dict[int, list[int]], entries: Sequence[Entry], rows: Sequence[bytes]
) -> list[list[int]]:
    """As `add_captured`, for messages that are each alone in an entry; of each what it alone would be."""
