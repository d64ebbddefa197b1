"""Records of the carriers' side: the routes to them and the receipts from them.

`Receipt` is MessagePack as the records in `engine.records` are: its order is the wire
format, and fields may only be added at the end, with a default.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from engine.records import Encoding, Event, Queue


class Receipt(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """A carrier's word on what became of a message, or of one segment, after it took it.

    delivered    the recipient has it
    undelivered  the recipient will not get it
    pending      neither yet: buffered, on its way
    """

    provider: str
    # As the carrier wrote it; it may differ in base, case and leading zeros from the id it
    # gave when it took the message.
    provider_message_id: str
    state: Literal["delivered", "undelivered", "pending"]
    # The carrier's raw state and error code, e.g. "UNDELIV 069".
    code: str
    # When it reached the engine.
    at_us: int
    # Digits of the recipient's number as the carrier wrote it, "" when it did not.
    to: str = ""
    # Our id of the message when the carrier gave it back; "": to be found by the carrier's.
    message_id: str = ""


class Filed(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """One event of an attempt, as it is filed under each id the carrier gave for it.

    Of the attempt itself all fields are there; of what was recorded about it later, only
    the first five.
    """

    # `sent`, or how an attempt ended whose outcome is not known; else what a receipt made of
    # it: `receipt`, `delivered`, `undelivered`, or `retrying` when it was sent again.
    event: Event
    message_id: str
    attempt: int
    code: str
    segment: int = 0
    at_us: int = 0
    provider: str = ""
    # As in `Verdict`: the ids of all segments, with commas in between.
    provider_message_id: str = ""
    organisation_id: int = 0
    accepted_at_us: int = 0
    queue: Queue = "normal"
    to: str = ""
    sender: str = ""
    encoding: Encoding = "GSM-7"
    segments: int = 1
    units: int = 0
    reference: str = ""


class LateReceipt(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A receipt whose message was not found yet, as it waits to be looked up again."""

    receipt: Receipt
    # How often it was looked up.
    tries: int


class Route(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which providers carry the messages that match. The longest prefix wins; of those
    with the same prefix, one that names the sender; then one that names the queue."""

    # Of the destination, with the leading "+"; "" matches all.
    prefix: str = ""
    # "" matches every sender, and every queue.
    sender: str = ""
    queue: Queue | Literal[""] = ""
    # In order of preference, unless there are weights.
    providers: tuple[str, ...] = ()
    # Shares of the traffic, one for each provider; (): all to the first that can.
    weights: tuple[int, ...] = ()
    # Send again, by another provider, what a receipt says was not delivered.
    reroute: bool = False


class RoutingPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How messages find their provider, at one time."""

    # Goes up with each change.
    version: int
    # () when nobody has set any: every provider in the order of the configuration.
    routes: tuple[Route, ...] = ()
    # Names of the providers that nothing is to be sent through for now.
    paused: tuple[str, ...] = ()
    # Segments per second by provider, where they differ from the configuration.
    throughput: dict[str, float] = {}
