"""`cancel` of functions/queue in Python, and random calls of it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import msgspec

from engine.activity.records import CampaignPlace
from engine.bundle_format import is_bundle, record, records_of
from engine.redis_keys import GROUP
from engine.stores.redis.cancels import IdRange, cancel, cancel_campaign
from tests.simulation.line import Line, LineFunctions
from tests.simulation.ready import ready_id
from tests.simulation.redis_store import format_id

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode
# References of messages, and campaigns: some are one another's beginning.
CAMPAIGNS = ("spring", "spring-1", "sp")
# As in functions/queue.
UNREAD_MAX = 8192
EntryId = tuple[int, int]
Records = list[tuple[int, bytes]]


class Wanted:
    """What a call is to cancel, and what it has."""

    def __init__(self, organisation: int, first: str, last: str, campaign: str | None = None) -> None:
        """`campaign`: None for the messages with ids from `first` to `last`."""
        self.organisation = organisation
        self.first, self.last, self.campaign = first, last, campaign
        self.canceled: list[Any] = []
        self.before: list[bytes] = []

    def read(self, payload: bytes) -> Any:
        message = _unpack(payload)
        if self.campaign is not None:
            name, mark = message[11][: len(self.campaign)], message[11][len(self.campaign) :][:1]
            is_of = name == self.campaign and mark in "-_/:. " and message[1] == self.organisation
            return message if is_of else None
        if self.first <= message[0] <= self.last and message[1] == self.organisation:
            return message
        return None

    def take(self, payload: bytes) -> bool:
        message = self.read(payload)
        if message is None:
            return False
        if message[13]:
            self.before.append(message[0].encode())
            return False
        self.canceled.append(message)
        return True


class Canceling(LineFunctions):
    """The function, without where it looks first: it looks everywhere."""

    def canceled(self, keys: Any, args: Any) -> tuple[Line, Wanted, list[Any], list[bytes]]:
        """Take what is wanted from where it waits; the line, what was taken, the reply, and the rows."""
        queue, organisation, first, last, now_us, bundle_max = args[:6]
        line = self.line(self.store, keys[:4], bundle_max)
        wanted = Wanted(organisation, first, last)
        place, places, _, *times = args[9:]
        due = dict(self.store.db.get(keys[4], {}))
        self.cancel_due(keys[4], [p for p in self.store.zrange(keys[4]) if due[p] in times], wanted)
        self.cancel_due(keys[4], self.store.zrange(keys[4])[place : place + places], wanted)
        in_hand = self.cancel_ready(line, wanted)
        waits = self.cancel_listed(line, organisation, wanted)
        for number in [way.number for way in line.ways]:
            self.cancel_aside(line, number, organisation, wanted)
        ids, rows = self.recorded(queue, now_us, wanted)
        places_in_list = [1, 1, 1, 1] if waits else [0, 0, 0, 0]
        return line, wanted, [ids, in_hand, wanted.before, *places_in_list, []], rows

    def canceled_of_campaign(self, keys: Any, args: Any) -> tuple[Line, Wanted, list[Any], list[bytes]]:
        """The same for what of a campaign waits in one place. Of a list it looks at all chunks, as one."""
        queue, organisation, campaign, now_us, bundle_max, where, count, *place = args
        line = self.line(self.store, keys[:4], bundle_max)
        wanted, in_hand, following = Wanted(organisation, "", "", campaign), [], []
        if where == "due":
            before = self.before(keys[4], *place)
            page = before[-count:]
            if len(before) > count:
                score = self.store.db[keys[4]][page[0]]
                following = [b"%d" % score, *_place_of(page[0])]
            self.cancel_due(keys[4], page, wanted)
        elif where == "list":
            number = int(place[1]) if len(place) > 1 else 0
            if number:
                self.cancel_aside(line, number, organisation, wanted)
            else:
                self.cancel_listed(line, organisation, wanted)
            if line.put_off_count and (more := [way.number for way in line.ways if way.number > number]):
                following = [b"1000000000000000", b"%d" % min(more)]
        else:
            in_hand = self.cancel_ready(line, wanted)
        ids, rows = self.recorded(queue, now_us, wanted)
        units = sum(message[7] for message in wanted.canceled)
        return line, wanted, [ids, units, in_hand, wanted.before, following], rows

    def before(self, key: bytes, at_us: Any, number: Any, message_id: str) -> list[bytes]:
        """The members of the due set before a place."""
        due, at, place = self.store.db.get(key, {}), float(at_us), (int(number), message_id)
        return [
            p
            for p in self.store.zrange(key)
            if due[p] < at
            or (due[p] == at and message_id and (int(_place_of(p)[0]), _place_of(p)[1].decode()) < place)
        ]

    def recorded(self, queue: str, now_us: int, wanted: Wanted) -> tuple[list[bytes], list[bytes]]:
        """The ids of what was canceled, and the rows of the activity."""
        ids = [message[0].encode() for message in wanted.canceled]
        rows = [
            _pack(
                (max(now_us, m[8]), m[1], m[0], m[8], "canceled", queue, m[2], m[4], m[5], m[6], m[7], m[10],
                 "", "", "", 0, m[11], 0, 0, False, 0, "", m[14])
            )
            for m in wanted.canceled
        ]  # fmt: skip
        return ids, rows

    def cancel_listed(self, line: Line, organisation: int, wanted: Wanted) -> bool:
        """Cancel messages of an organisation's list; whether there is one."""
        name = b"%d" % organisation
        waits = name in self.store.lists(line.wait)
        for item in list(self.store.lists(line.wait).get(name, [])):
            if wanted.take(item[1]):
                self.store.list_take(line.wait, name, item)
                self.taken(line, name)
        return waits

    def cancel_aside(self, line: Line, number: int, organisation: int, wanted: Wanted) -> None:
        """Cancel messages of an organisation that are put off in one way."""
        name = b"%d" % organisation
        for way in line.ways:
            for item in list(self.store.lists(line.wait).get(b"%b@%d" % (name, way.number), [])):
                if way.number == number and wanted.take(item[1]):
                    line.take_aside(way, name, item)

    def cancel_due(self, key: bytes, payloads: list[bytes], wanted: Wanted) -> None:
        for payload in payloads:
            if wanted.take(payload):
                self.store.zrem(key, payload)

    def taken(self, line: Line, name: bytes) -> None:
        """A message was taken out of a list."""
        of = line.of(name)
        if not line.has_list(name) and not of.paused:
            of.start = float(self.store.db[line.turns][name])
        line.wait_more(of, -1)

    def cancel_ready(self, line: Line, wanted: Wanted) -> list[bytes]:
        stream = self.store.db.get(line.sms)
        in_hand: list[bytes] = []
        if stream is None:
            return in_hand
        given = stream.groups[GROUP].last if GROUP in stream.groups else (0, 0)
        unread, before = line.unread(), len(wanted.canceled)
        again: list[tuple[EntryId, list[bytes], Records]] = []
        for entry_id in list(stream.ids):
            fields = stream.fields[entry_id]
            records = self.open_records(line, entry_id, fields[1])
            ids = [m[0].encode() for m in (wanted.read(of) for _, of in records) if m is not None]
            left = records
            if ids and self.is_given(entry_id, given):
                in_hand += ids
            elif ids and self.was_given(fields):
                wanted.before += ids
            elif ids:
                left = [of for of in records if not wanted.take(of[1])]
            if left != records:
                line.take_entry(entry_id, len(records))
            if left and (left != records or (again and self.goes_along(unread))):
                again.append((entry_id, fields, left))
        self.write_again(line, again)
        if canceled := len(wanted.canceled) - before:
            line.leave_unread(unread - canceled)
        return in_hand

    def is_given(self, entry_id: EntryId, given: EntryId) -> bool:
        """Whether a worker has the entry in hand."""
        return entry_id <= given

    def was_given(self, fields: list[bytes]) -> bool:
        """Whether a worker had its message in hand before, in another entry."""
        return len(fields) > 2 and fields[3] != b"0"

    def goes_along(self, unread: int) -> bool:
        """Whether what is behind a bundle that is written again is written again as well."""
        return unread <= UNREAD_MAX

    def open_records(self, line: Line, entry_id: EntryId, payload: bytes) -> Records:
        """(segments, message) of each message of an entry that is not settled; one that is alone has 0."""
        messages = line.open_messages(format_id(entry_id), payload)
        if not is_bundle(payload):
            return [(0, message) for message in messages]
        return [of for of in records_of(payload, 12) if of[1] in messages]

    def write_again(self, line: Line, again: list[tuple[EntryId, list[bytes], Records]]) -> None:
        """Write entries at the end of the stream, in their order, with these of their messages."""
        for entry_id, fields, records in again:
            if entry_id in self.store.stream(line.sms).fields:
                line.take_entry(entry_id, len(records))
            line.recalled_way = fields[7].decode() if len(fields) > 6 else ""
            content = records[0][1] if len(records) == 1 else b"".join(record(*of) for of in records)
            given = int(fields[3]) if len(fields) > 2 else 0
            line.add_entry(content, len(records), given, self.from_id(entry_id, fields))
        line.recalled_way = ""

    def from_id(self, entry_id: EntryId, fields: list[bytes]) -> bytes:
        """Since when the messages of an entry that is written again are ready."""
        return ready_id(entry_id, fields)


def _place_of(payload: bytes) -> tuple[bytes, bytes]:
    """(number, id) of a payload, as `id_in` of functions/queue has them."""
    message_id = _unpack(payload)[0].encode()
    begin = payload.index(message_id)
    head = payload[:begin] + bytes(5 - begin)
    return b"%d" % int.from_bytes(head, "big"), message_id


def drawn(rng: Random, messages: int) -> tuple[Any, ...]:
    """(organisation, first and last number of a message, places of the due set) of one call."""
    first = max(1, messages - rng.randrange(80))
    return rng.choice((1, 2, 300, 70_000)), first, first + rng.choice((0, 0, 5, 40)), rng.choice((0, 0, 5))


def command(shard: int, organisation_id: int, first: int, last: int, places: int) -> Any:
    """The call as the engine's own adapter writes it: all of the list, and some of the due set."""
    range_ = IdRange("normal", organisation_id, f"m{first:07}", f"m{last:07}", f"m{first:07}")
    return cancel(
        shard, range_, 150, chunk=None, chunks=1 << 20, place=3, places=places, due_at_us=(100, 150)
    )


def found(reply: Any) -> list[str]:
    """What a call has come upon."""
    return [what for what, ids in zip(("canceled", "in hand", "given before"), reply, strict=False) if ids]


def drawn_campaign(rng: Random, messages: int) -> tuple[Any, ...]:
    """(organisation, campaign, where, which place of the due set) of one call."""
    where, head = rng.choice(("due", "due", "list", "ready")), str(int.from_bytes(b"\x9f\xa8\0\0\0", "big"))
    before = f"m{max(1, messages - rng.randrange(80)):07}"
    at = rng.choice((("+inf", "0", ""), ("150", "0", ""), ("100", head, before), ("200", head, before)))
    return rng.choice((1, 2, 300, 70_000)), rng.choice(CAMPAIGNS), where, at


def campaign_command(
    shard: int, organisation_id: int, campaign: str, where: Any, at: tuple[str, str, str]
) -> Any:
    """The call as the engine's own adapter writes it, with all chunks of the list at once, and a few messages
    of the due set."""
    place = {"due": at, "list": (str(10**15),), "ready": ()}[where]
    command = cancel_campaign(
        shard, organisation_id, campaign, CampaignPlace(queue="normal", where=where, at=place), 150
    )
    count = {"due": 4, "list": 1 << 20, "ready": 0}[where]
    return *command[: len(command) - len(place) - 1], count, *place


# By what the call is.
COMMANDS: dict[str, Callable[..., Any]] = {"cancel": command, "cancel_campaign": campaign_command}
