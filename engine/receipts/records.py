"""Records of receipts and of the attempts they are about.

`Receipt` is MessagePack as the records in `engine.records` are: its order is the wire
format, and fields may only be added at the end, with a default.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from engine.errors import Refusal


class Receipt(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """What a provider says about a message, or one segment of it, some time after it took the message.

    delivered    the recipient has it
    undelivered  the recipient will not get it
    pending      neither yet: buffered, on its way
    """

    provider: str
    # As the provider wrote it; it may differ in base, case and leading zeros from the id it
    # gave when it took the message.
    provider_message_id: str
    state: Literal["delivered", "undelivered", "pending"]
    # The provider's raw state and error code, e.g. "UNDELIV 069".
    code: str
    # When the receipt reached the engine.
    at_us: int
    # The digits of the recipient's number as the provider wrote them; "" when it wrote none, or hid some.
    to: str = ""
    # Our id of the message when the provider gave it back; "": the message is found by the provider's id.
    message_id: str = ""


class ReceiptsRead(NamedTuple):
    """The receipts of one request that could be read, and why it is refused all the same, if it is."""

    receipts: list[Receipt]
    # Once the receipts are kept: the provider is told, and sends what was refused again.
    refusal: Refusal | None = None


class LateReceipt(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A receipt whose message was not found yet. It is set aside, to be looked up again."""

    receipt: Receipt
    # How often it was looked up.
    tries: int
