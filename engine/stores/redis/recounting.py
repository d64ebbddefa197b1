"""Rule: the units of all messages of a shard of Redis, counted piece by piece while messages move.

A shard is looked at in steps. Each step is one instant in Redis, and gives

    rows      the events recorded since the step before, in their order
    moved     messages that came back from the ready stream or the dead letters
    page      some of the messages that are there

Why the count is exact at the instant of the last step. A message that is there then was there at the first
step, or was admitted since. An admission is a row. Any other is on a page, or in `moved`: it only goes from
the due set to a list, and from there to the ready stream, or straight to that, without being noted, and the
pages are read in this order, the ready stream to its end in the last step. Whatever brings it back is
noted. A message that is no longer there has a row that ends its charge, and that row comes after whatever
page or note it was on. A message that was met twice counts once, by its id.

Memory. Ids of up to a part of the messages are kept: the shard is read once for each part, by the hash of the
ids. The parts that are counted already follow the rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from engine.bundle_format import records_of
from engine.credit.laws import EVENTS_BY_CHARGE
from engine.records import NO_RECORD

# Most messages whose ids are kept at once, about 100 octets each.
PART_MAX = 300_000

_HOLDING, _ENDING = EVENTS_BY_CHARGE[0], EVENTS_BY_CHARGE[1] + EVENTS_BY_CHARGE[2]


class _Held(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The first fields of a `Message`, of whatever version."""

    id: str
    organisation_id: Any
    to: Any
    text: Any
    sender: Any
    encoding: Any
    segments: Any
    units: int


class _Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The first fields of an `ActivityRow`, of whatever version."""

    at_us: Any
    organisation_id: Any
    message_id: str
    accepted_at_us: Any
    event: str
    queue: Any
    to: Any
    sender: Any
    encoding: Any
    segments: Any
    units: int


_held = msgspec.msgpack.Decoder(_Held).decode
_rows = msgspec.msgpack.Decoder(list[_Row]).decode


class UnitsCount:
    """Adds the messages of a shard up, in `parts` parts, from the first on."""

    def __init__(self, parts: int) -> None:
        self._parts = parts
        self._part = 0
        # Of the parts that are counted.
        self._sum = 0
        # {hash of an id: units} of the messages of this part that are known to be there.
        self._there: dict[int, int] = {}

    @property
    def units(self) -> int:
        """The units of the parts that were read, as of the last step."""
        return self._sum + sum(self._there.values())

    def next_part(self) -> None:
        """The part that was read is complete: go on with the next one."""
        self._sum = self.units
        self._part += 1
        self._there.clear()

    def add(self, messages: Iterable[bytes]) -> None:
        """Count messages that are there, as they lie in a queue. One that cannot be read has no units."""
        for payload in messages:
            try:
                message = _held(payload)
            except NO_RECORD:
                continue
            number = hash(message.id)
            if number % self._parts == self._part:
                self._there[number] = message.units

    def add_records(self, records: bytes) -> None:
        """The same of messages in a list (`engine.bundle_format`)."""
        try:
            self.add(payload for _, payload in records_of(records))
        except ValueError:
            # Cut short by somebody else: what it held is missing, and the audit says so.
            return

    def follow(self, batch: bytes) -> None:
        """Count what came and what ended: a batch of rows of activity. One that cannot be read has none."""
        try:
            rows = _rows(batch)
        except NO_RECORD:
            return
        for row in rows:
            came = row.event in _HOLDING
            if not came and row.event not in _ENDING:
                continue
            number = hash(row.message_id)
            part = number % self._parts
            if part < self._part:
                self._sum += row.units if came else -row.units
            elif part == self._part and came:
                self._there[number] = row.units
            elif part == self._part:
                self._there.pop(number, None)
