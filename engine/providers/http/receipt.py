"""A provider's HTTP request with receipts, read by a description of its fields.

Providers send receipts as a query (GET), as a form or as JSON, one or a list of them at a
time. Where a field stands is written as its name, for JSON as a path (`json_path`), or
`query:NAME` for a parameter of the URL in any case: what the engine itself put into the
address it gave to the provider comes back there.

A receipt is only taken when it names its message and a state. A state that no rule names is
`otherwise`, so that a word which a provider invents later does not end a message by mistake. Of
several receipts in a request those that can be read are taken, and the request is refused for the
others: the provider sends all of them again, and what was taken already changes nothing. So
none is acknowledged that was not read, and one that never can be holds up no other.

Read liberally: JSON by its first octet whatever the content type says, receipts in the URL of a POST
without a body, forms in parts (`multipart/form-data`) by their first line, several documents in one body,
blanks around a value, and what `json_text` tolerates.
Bounds: BODY_BYTES_MAX a request, RECEIPTS_MAX receipts in it, and
`source.WORD_CHARACTERS_MAX` characters a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl

import msgspec

from engine.errors import ConfigError, Refusal
from engine.ids import accepted_at_us
from engine.problem_records import ProblemKind
from engine.providers.http.form_parts import parts_of
from engine.providers.http.json_path import Path, find, parse_path, word
from engine.providers.http.json_text import Malformed, TooManyDocuments, parse_json_documents
from engine.providers.http.source import WORD_CHARACTERS_MAX
from engine.providers.http_client.content_coding import TooLarge, is_packed, unpacked
from engine.providers.problems import Problems
from engine.providers.states import State, States, StatesTable
from engine.receipts.ids import digits_of
from engine.receipts.records import Receipt, ReceiptsRead

BODY_BYTES_MAX = 1 << 20
RECEIPTS_MAX = 1000
# An error code is cut to this length: some providers write a whole sentence.
_CUT_CHARACTERS = 64
# No provider writes a query or a form of more fields.
FIELDS_MAX = 200

# What some providers leave around a value.
AROUND_VALUES = " \t\r\n\0"
# Blanks and octets of byte order marks, which may stand before JSON.
_BLANKS = b" \t\r\n\0\xef\xbb\xbf\xfe\xff"


class ReplyTable(msgspec.Struct, frozen=True, kw_only=True):
    """What the provider is answered when its receipts are kept."""

    status: int = 200
    content_type: str = "text/plain; charset=utf-8"
    body: str = ""


class ReceiptTable(msgspec.Struct, frozen=True, kw_only=True):
    """The table `providers.NAME.receipt`: where the values of a receipt stand."""

    # How fields are sent; auto: GET has a query; else the body and its content type decide.
    format: Literal["auto", "query", "form", "json"] = "auto"
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


class _Field(NamedTuple):
    """Where a value stands."""

    name: str
    in_query: bool
    path: Path


class _Request(NamedTuple):
    """One receipt of a request."""

    query: Mapping[str, str]
    # A JSON value, or the fields of a form or query.
    body: Any
    # Where it stood in a list, for refusals: "2.".
    at: str


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
        self._format = table.format
        self._list = parse_path(table.list)
        self._id, self._own_id = _field(table.id), _field(table.own_id)
        self._state, self._code, self._to = _field(table.state), _field(table.code), _field(table.to)
        if self._id is None and self._own_id is None:
            raise ConfigError(f"{where} must have id or own_id: else no receipt finds its message.")
        if self._state is None:
            raise ConfigError(f"{where}.state must name the field with the state.")
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
            body = _whole(body)
            parameters = _parameters(query, "query")
            for one in self._bodies(method, parameters, content_type, body):
                try:
                    receipts.append(self._receipt(one, now_us))
                except Refusal as e:
                    refusal = refusal or e
        except Refusal as e:
            refusal = e
        return ReceiptsRead(receipts, refusal)

    def _bodies(
        self, method: str, query: Mapping[str, str], content_type: str, body: bytes
    ) -> list[_Request]:
        kind: Literal["auto", "query", "form", "parts", "json"] = self._format
        if kind == "auto" or (kind == "form" and body.startswith(b"--")):
            kind = _format_of(method, query, content_type, body)
        if kind == "query":
            return [_Request(query, query, "")]
        if kind == "parts":
            return [_Request(query, parts_of(body, FIELDS_MAX), "")]
        if kind == "form":
            # Some senders do not percent-encode their UTF-8. Nothing that is read here is lost by that.
            return [_Request(query, _parameters(body.decode(errors="replace"), "body"), "")]
        try:
            documents = parse_json_documents(body, RECEIPTS_MAX)
        except Malformed as e:
            raise Refusal("invalid_body", 400, "The body is not JSON.") from e
        except TooManyDocuments as e:
            raise _too_many() from e
        found: list[Any] = []
        for document in documents:
            inside = find(document, self._list)
            # Some send the list, or a receipt alone, without what should be around it.
            inside = document if inside is None else inside
            if len(documents) == 1 and not isinstance(inside, list):
                return [_Request(query, inside, "")]
            found += inside if isinstance(inside, list) else [inside]
        if len(found) > RECEIPTS_MAX:
            raise _too_many()
        return [_Request(query, one, f"{number}.") for number, one in enumerate(found)]

    def _receipt(self, request: _Request, now_us: int) -> Receipt:
        state = self._value(request, self._state)
        if not state:
            raise _missing(request, self._state)
        own_id = self._value(request, self._own_id)
        if accepted_at_us(own_id) is None:
            own_id = ""  # what is no id of ours finds no message; the provider's may
        given_id = self._value(request, self._id)
        if not given_id and not own_id:
            raise _missing(request, self._id or self._own_id)
        code = self._value(request, self._code, cut=True)
        return Receipt(
            provider=self._provider,
            provider_message_id=given_id or own_id,
            state=self._kind_of(state),
            code=f"{state} {code}" if code else state,
            at_us=now_us,
            to=digits_of(self._value(request, self._to, cut=True)),
            message_id=own_id,
        )

    def _kind_of(self, state: str) -> State:
        kind = self._states.of(state)
        if kind is None:
            self._problems.note(self._provider, ProblemKind.receipt_state, f"state:{state}")
        return kind or self._otherwise

    def _value(self, request: _Request, field: _Field | None, *, cut: bool = False) -> str:
        """ "" when it is not there. What is too long is cut where it decides nothing."""
        if field is None:
            return ""
        if field.in_query:
            text = request.query.get(field.name, "")
        else:
            # First as a plain name, which may have a dot in it; else as a path.
            whole = request.body.get(field.name) if isinstance(request.body, dict) else None
            text = word(find(request.body, field.path) if whole is None else whole)
        text = text.strip(AROUND_VALUES)
        if cut:
            return text[:_CUT_CHARACTERS]
        if len(text) > WORD_CHARACTERS_MAX:
            raise Refusal(
                "invalid_receipt",
                422,
                f"{field.name} may have {WORD_CHARACTERS_MAX} characters.",
                request.at + field.name,
            )
        return text


def _whole(body: bytes) -> bytes:
    """The body, unpacked when it is packed and no header said so: else the API's server has done it."""
    too_large = Refusal("too_large", 413, f"The body may have {BODY_BYTES_MAX} bytes.")
    if len(body) > BODY_BYTES_MAX:
        raise too_large
    try:
        return unpacked(body, BODY_BYTES_MAX) if is_packed(body, b"") else body
    except TooLarge as e:
        raise too_large from e


def _format_of(
    method: str, query: Mapping[str, str], content_type: str, body: bytes
) -> Literal["query", "form", "parts", "json"]:
    """How the fields of a request are sent, by what it looks like."""
    if method == "GET":
        return "query"
    start = body[:64].lstrip(_BLANKS)[:1]
    if not start and query:
        return "query"
    if start in (b"{", b"["):
        return "json"
    if body.lstrip(b"\r\n").startswith(b"--"):
        return "parts"
    # A form that is said to be JSON begins with a field's name.
    is_form = (start.isalnum() or start == b"_") and b"=" in body
    return "json" if "json" in content_type.lower() and not is_form else "form"


def _field(text: str) -> _Field | None:
    if not text:
        return None
    in_query = text.startswith("query:")
    name = text.removeprefix("query:")
    return _Field(name, in_query, parse_path(name))


def _too_many() -> Refusal:
    return Refusal("too_many", 413, f"A request may have {RECEIPTS_MAX} receipts.")


def _missing(request: _Request, field: _Field | None) -> Refusal:
    assert field is not None
    return Refusal(
        "invalid_receipt", 422, f"{field.name} is missing, or no plain value.", request.at + field.name
    )


def _parameters(text: str, part: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="replace")
    except ValueError as e:
        raise Refusal("invalid_body", 400, f"The {part} may have {FIELDS_MAX} fields.") from e
    # Of a name given twice the first counts: what the engine put into its address stands first.
    return dict(reversed(pairs))
