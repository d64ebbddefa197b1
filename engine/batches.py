"""Rule: the id of a batch. It names the messages of the batch, so nothing is kept of it anywhere.

The messages of one call have ids that follow one another (`engine.ids`). The id of the batch is that of its
first message without dashes, and how many messages the call had: `01a202a3c1117fd392d49ad3082ddfbb-1000`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# Most messages of one batch.
BATCH_MAX = 1_000
_BATCH = re.compile(r"([0-9a-f]{8})([0-9a-f]{4})(7[0-9a-f]{3})([0-9a-f]{4})([0-9a-f]{12})-([1-9][0-9]{0,3})")


class Batch(NamedTuple):
    """The ids of the messages of a batch; refused ones are among them, which are no messages."""

    first: str
    last: str
    size: int

    @property
    def id(self) -> str:
        """As it is shown."""
        return f"{self.first.replace('-', '')}-{self.size}"

    @property
    def prefix(self) -> str:
        """What the ids of all its messages begin with."""
        shared = 0
        while shared < len(self.first) and self.first[shared] == self.last[shared]:
            shared += 1
        return self.first[:shared]


def batch_from(message_id: str, place: int, count: int) -> Batch:
    """The batch of `count` messages in which the message is at `place`, from 0."""
    head, number = message_id[:24], int(message_id[24:], 16) - place
    return Batch(f"{head}{number:012x}", f"{head}{number + count - 1:012x}", count)


def batch_of(text: str) -> Batch | None:
    """The batch with this id; None when it is none."""
    found = _BATCH.fullmatch(text)
    if found is None or int(found[6]) > BATCH_MAX:
        return None
    first, count = "-".join(found.groups()[:5]), int(found[6])
    if int(found[5], 16) + count > 1 << 48:
        return None
    return batch_from(first, 0, count)
