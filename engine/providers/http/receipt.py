"""A provider's HTTP request with receipts, read by a description of its fields.

`pushed` says how the request is taken apart, and where a field stands.

A receipt is only taken when it names its message and a state. A state that no rule names is
`otherwise`, so that a word which a provider invents later does not end a message by mistake. Of
several receipts in a request those that can be read are taken, and the request is refused for the
others: the provider sends all of them again, and what was taken already changes nothing. So
none is acknowledged that was not read, and one that never can be holds up no other.
"""

from __future__ import annotations

import msgspec

from engine.errors import ConfigError, Refusal
from engine.ids import accepted_at_us
from engine.problem_records import ProblemKind
from engine.providers.http.pushed import Format, OneOf, RequestParts, field_of, missing, value_of
from engine.providers.problems import Problems
from engine.providers.states import State, States, StatesTable
from engine.receipts.ids import digits_of
from engine.receipts.records import Receipt, ReceiptsRead

# An error code is cut to this length: some providers write a whole sentence.
_CUT_CHARACTERS = 64


class ReplyTable(msgspec.Struct, frozen=True, kw_only=True):
    """What the provider is answered when its receipts are kept."""

    status: int = 200
    content_type: str = "text/plain; charset=utf-8"
    body: str = ""


class ReceiptTable(msgspec.Struct, frozen=True, kw_only=True):
    """The table `providers.NAME.receipt`: where the values of a receipt stand."""

    # How fields are sent; auto: GET has a query; else the body and its content type decide.
    format: Format = "auto"
    # Path of the list in a JSON body; "": the body is a receipt, or a list of them.
    list: str = ""
    # Fields: the provider's id, the engine's own id, state, error code, recipient.
    id: str = ""
    own_id: str = ""
    state: str = "state"
    code: str = ""
    to: str = ""
    states: StatesTable = StatesTable()
    otherwise: State = "pending"
    reply: ReplyTable = ReplyTable()


class ReceiptReading:
    """Reads receipts by one description.

    Raises ConfigError naming the setting; `where` is the name of the table. States that no rule names
    are noted in `problems`.
    """

    def __init__(
        self, table: ReceiptTable, provider: str, where: str, problems: Problems | None = None
    ) -> None:
        self._provider = provider
        self._problems = problems or Problems()
        self._parts = RequestParts(table.format, table.list, "receipts")
        self._id, self._own_id = field_of(table.id), field_of(table.own_id)
        self._state, self._code, self._to = field_of(table.state), field_of(table.code), field_of(table.to)
        if self._id is None and self._own_id is None:
            raise ConfigError(f"{where} must have id or own_id: else no receipt finds its message.")
        if self._state is None:
            raise ConfigError(f"{where}.state must name the field with the state.")
        # Whether a receipt may name a message by the id that it has here.
        self.has_own_id = self._own_id is not None
        self._states = States(table.states)
        self._otherwise: State = table.otherwise
        self.reply = table.reply
        if not 200 <= table.reply.status <= 299:
            raise ConfigError(f"{where}.reply.status must be from 200 to 299, not {table.reply.status}.")

    def read(self, method: str, query: str, content_type: str, body: bytes, now_us: int) -> ReceiptsRead:
        """The receipts of one request; `query` is that of its URL, as it came.

        What cannot be read is refused with 400, 413 or 422, naming the first field that is wrong.
        """
        receipts: list[Receipt] = []
        refusal: Refusal | None = None
        try:
            for one in self._parts.requests(method, query, content_type, body):
                try:
                    receipts.append(self._receipt(one, now_us))
                except Refusal as e:
                    refusal = refusal or e
        except Refusal as e:
            refusal = e
        return ReceiptsRead(receipts, refusal)

    def _receipt(self, request: OneOf, now_us: int) -> Receipt:
        state = value_of(request, self._state)
        if not state:
            raise missing(request, self._state)
        own_id = value_of(request, self._own_id)
        if accepted_at_us(own_id) is None:
            own_id = ""  # what is no id of ours finds no message; the provider's may
        given_id = value_of(request, self._id)
        if not given_id and not own_id:
            raise missing(request, self._id or self._own_id)
        code = value_of(request, self._code, cut=_CUT_CHARACTERS)
        return Receipt(
            provider=self._provider,
            provider_message_id=given_id or own_id,
            state=self._kind_of(state),
            code=f"{state} {code}" if code else state,
            at_us=now_us,
            to=digits_of(value_of(request, self._to, cut=_CUT_CHARACTERS)),
            message_id=own_id,
        )

    def _kind_of(self, state: str) -> State:
        kind = self._states.of(state)
        if kind is None:
            self._problems.note(self._provider, ProblemKind.receipt_state, f"state:{state}")
        return kind or self._otherwise
