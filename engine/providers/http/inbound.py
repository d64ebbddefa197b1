"""A provider's HTTP request with messages that recipients wrote, read by a description of its fields.

`pushed` says how the request is taken apart, and where a field stands. A message is only taken when it names
who wrote it and to which number. Of several in a request those that can be read are taken, and the request
is refused for the others: the provider sends all of them again, and what was taken already is known: by the
provider's id of it for a day, and without one by all that it says, for some minutes.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from engine.errors import ConfigError, Refusal
from engine.inbound.records import InboundPart
from engine.inbound.whole import whole_message
from engine.providers.http.pushed import Format, OneOf, RequestParts, field_of, missing, value_of
from engine.providers.http.receipt import ReplyTable

# A longer text is cut.
_TEXT_MAX = 5_000


class InboundTable(msgspec.Struct, frozen=True, kw_only=True):
    """The table `providers.NAME.inbound`: where the values of a message stand."""

    # How fields are sent; auto: GET has a query; else the body and its content type decide.
    format: Format = "auto"
    # Path of the list in a JSON body; "": the body is a message, or a list of them.
    list: str = ""
    # Fields: the provider's id of it, who wrote, to which number, the text.
    id: str = ""
    sender: str = msgspec.field(default="from", name="from")
    recipient: str = msgspec.field(default="to", name="to")
    text: str = "text"
    reply: ReplyTable = ReplyTable()


class InboundRead(NamedTuple):
    """The messages of one request that could be read, each with what it is known again by and for how long,
    seconds; and why the request is refused all the same, if it is."""

    parts: list[tuple[InboundPart, bytes, int]]
    refusal: Refusal | None = None


class InboundReading:
    """Reads messages by one description.

    Raises ConfigError naming the setting; `where` is the name of the table.
    """

    def __init__(self, table: InboundTable, provider: str, where: str) -> None:
        self._provider = provider
        self._parts = RequestParts(table.format, table.list, "messages")
        self._id, self._text = field_of(table.id), field_of(table.text)
        self._sender, self._recipient = field_of(table.sender), field_of(table.recipient)
        if self._sender is None or self._recipient is None or self._text is None:
            raise ConfigError(f"{where} must name the fields from, to and text.")
        if not 200 <= table.reply.status <= 299:
            raise ConfigError(f"{where}.reply.status must be from 200 to 299, not {table.reply.status}.")

    def read(self, method: str, query: str, content_type: str, body: bytes, now_us: int) -> InboundRead:
        """The messages of one request; `query` is that of its URL, as it came. It raises nothing."""
        parts: list[tuple[InboundPart, bytes, int]] = []
        refusal: Refusal | None = None
        try:
            for one in self._parts.requests(method, query, content_type, body):
                try:
                    parts.append(self._message(one, now_us))
                except Refusal as e:
                    refusal = refusal or e
        except Refusal as e:
            refusal = e
        return InboundRead(parts, refusal)

    def _message(self, request: OneOf, now_us: int) -> tuple[InboundPart, bytes, int]:
        sender, recipient = value_of(request, self._sender), value_of(request, self._recipient)
        if not sender:
            raise missing(request, self._sender)
        if not recipient:
            raise missing(request, self._recipient)
        text, given_id = value_of(request, self._text, cut=_TEXT_MAX), value_of(request, self._id)
        return whole_message(self._provider, sender, recipient, text, given_id, now_us)
