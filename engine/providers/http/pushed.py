"""A provider's HTTP request that tells us something, taken apart by where its values stand.

Providers send a query (GET), a form or JSON, one thing or a list of them at a time. Where a value stands is
written as its name, for JSON as a path (`json_path`), or `query:NAME` for a parameter of the URL in any case:
what the engine itself put into the address it gave to the provider comes back there.

Read liberally: JSON by its first octet whatever the content type says, values in the URL of a POST without a
body, forms in parts (`multipart/form-data`) by their first line, several documents in one body, blanks around
a value, and what `json_text` tolerates.
Bounds: BODY_BYTES_MAX a request, ITEMS_MAX things in it, and `source.WORD_CHARACTERS_MAX` characters a value
that decides something.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl

from engine.errors import Refusal
from engine.providers.http.form_parts import parts_of
from engine.providers.http.json_path import Path, find, parse_path, word
from engine.providers.http.json_text import Malformed, TooManyDocuments, parse_json_documents
from engine.providers.http.source import WORD_CHARACTERS_MAX
from engine.providers.http_client.content_coding import TooLarge, is_packed, unpacked

BODY_BYTES_MAX = 1 << 20
ITEMS_MAX = 1000
# No provider writes a query or a form of more fields.
FIELDS_MAX = 200

# What some providers leave around a value.
AROUND_VALUES = " \t\r\n\0"
# Blanks and octets of byte order marks, which may stand before JSON.
_BLANKS = b" \t\r\n\0\xef\xbb\xbf\xfe\xff"


Format = Literal["auto", "query", "form", "json"]


class Field(NamedTuple):
    """Where a value stands."""

    name: str
    in_query: bool
    path: Path


class OneOf(NamedTuple):
    """One of the things that a request tells."""

    query: Mapping[str, str]
    # A JSON value, or the fields of a form or query.
    body: Any
    # Where it stood in a list, for refusals: "2.".
    at: str


class RequestParts:
    """Takes requests apart by one description."""

    def __init__(self, form: Format, list_path: str, what: str) -> None:
        """`form`: how values are sent; auto: GET has a query, else the body and its content type decide.
        `list_path`: of the list in a JSON body; "": the body is one of them, or a list. `what`: they are, in
        the plural."""
        self._format = form
        self._list = parse_path(list_path)
        self._what = what

    def requests(self, method: str, query: str, content_type: str, body: bytes) -> list[OneOf]:
        """What a request tells, one after another; `query` is that of its URL, as it came.

        Raises Refusal 400, 413.
        """
        body = _whole(body)
        return self._bodies(method, _parameters(query, "query"), content_type, body)

    def _bodies(self, method: str, query: Mapping[str, str], content_type: str, body: bytes) -> list[OneOf]:
        kind: Literal["auto", "query", "form", "parts", "json"] = self._format
        if kind == "auto" or (kind == "form" and body.startswith(b"--")):
            kind = _format_of(method, query, content_type, body)
        if kind == "query":
            return [OneOf(query, query, "")]
        if kind == "parts":
            return [OneOf(query, parts_of(body, FIELDS_MAX), "")]
        if kind == "form":
            # Some senders do not percent-encode their UTF-8. Nothing that is read here is lost by that.
            return [OneOf(query, _parameters(body.decode(errors="replace"), "body"), "")]
        try:
            documents = parse_json_documents(body, ITEMS_MAX)
        except Malformed as e:
            raise Refusal("invalid_body", 400, "The body is not JSON.") from e
        except TooManyDocuments as e:
            raise _too_many(self._what) from e
        found: list[Any] = []
        for document in documents:
            inside = find(document, self._list)
            # Some send the list, or a receipt alone, without what should be around it.
            inside = document if inside is None else inside
            if len(documents) == 1 and not isinstance(inside, list):
                return [OneOf(query, inside, "")]
            found += inside if isinstance(inside, list) else [inside]
        if len(found) > ITEMS_MAX:
            raise _too_many(self._what)
        return [OneOf(query, one, f"{number}.") for number, one in enumerate(found)]


def value_of(request: OneOf, field: Field | None, *, cut: int = 0) -> str:
    """The value of a field; "" when it is not there. What is too long is cut to `cut` characters where it
    decides nothing; with 0 it is refused. Raises Refusal 422."""
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
        return text[:cut]
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


def field_of(text: str) -> Field | None:
    """Where a value stands that a description writes as `text`; None for ""."""
    if not text:
        return None
    in_query = text.startswith("query:")
    name = text.removeprefix("query:")
    return Field(name, in_query, parse_path(name))


def _too_many(what: str) -> Refusal:
    return Refusal("too_many", 413, f"A request may have {ITEMS_MAX} {what}.")


def missing(request: OneOf, field: Field | None) -> Refusal:
    """The refusal of a request without this field."""
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
