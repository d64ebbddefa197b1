"""From the bytes of a request to a record, or to one sentence on what is wrong with them."""

from __future__ import annotations

import json
import math
import re
from codecs import BOM_UTF8
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from types import NoneType
from typing import Any, Generic, TypeVar, get_args

import msgspec
from aiohttp import hdrs, web

from engine.errors import Refusal
from engine.networks import NETWORKS_ALLOWED, networks_of
from engine.text_file import encoding_of

T = TypeVar("T")

# The body of a request, when somebody has read it.
BODY = web.RequestKey("body", bytes)
# What msgspec raises for a body that it cannot read: also for strings that are not UTF-8, and for
# documents that are nested too deep.
NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_UNKNOWN = "Object contains unknown field `"
_MISSING = re.compile(r"Object missing required field `([^`]*)`")
_AT = re.compile(r" - at `\$\.([A-Za-z_]+)")
# Where msgspec stopped reading.
_BYTE = re.compile(r"\(byte ([0-9]+)\)")
_NAME_MAX = 40
# An integer of more digits than any field takes; longer ones only cost time to read.
_DIGITS_MAX = 40
_LONG_INTEGER = re.compile(rb"[0-9]{%d}" % (_DIGITS_MAX + 1))


async def read_body(request: web.Request, bytes_max: int) -> bytes:
    """The whole body, without a byte order mark (RFC 8259, section 8.1, lets it be passed over).

    Raises Refusal 413 when it is larger, 400 when it ends early and when it has a transfer coding beside
    chunked, which nobody here undoes."""
    coding = request.headers.get(hdrs.TRANSFER_ENCODING)
    known: bytes | None = request.get(BODY)
    if known is not None:
        return known
    if coding is not None and coding.strip().lower() != "chunked":
        # Several such headers are no HTTP for the parser, so this is the only one.
        detail = "`Transfer-Encoding` must be chunked, or absent."
        raise Refusal("invalid_body", 400, detail, "Transfer-Encoding")
    content = request.content
    try:
        if content.is_eof():
            # The body came together with the headers, as most do.
            body = content.read_nowait()
        else:
            body = await _rest(request, bytes_max)
    except (web.RequestPayloadError, ConnectionError) as e:
        raise Refusal(
            "invalid_body", 400, "The body must be as long and as encoded as its headers say."
        ) from e
    if len(body) > bytes_max:
        raise _too_large(bytes_max)
    return without_mark(body)


def without_mark(body: bytes) -> bytes:
    """The body without a byte order mark of UTF-8 in front."""
    return body.removeprefix(BOM_UTF8)


async def _rest(request: web.Request, bytes_max: int) -> bytes:
    if (request.content_length or 0) > bytes_max:
        raise _too_large(bytes_max)
    parts, size = [], 0
    async for part in request.content.iter_any():
        size += len(part)
        if size > bytes_max:
            raise _too_large(bytes_max)
        parts.append(part)
    return b"".join(parts)


class Shape(Generic[T]):
    """A kind of body: the record it becomes, and for each field what is allowed."""

    def __init__(self, record: type[T], noun: str, allowed: Mapping[str, str]) -> None:
        self.record = record
        # What it is, in sentences: "a top-up".
        self.noun = noun
        # By field in JSON: what it may be, in sentences.
        self.allowed = allowed
        self._decode = msgspec.json.Decoder(record).decode
        # Optional fields whose type has no place for null; there it is as if they were absent.
        self.not_null = {
            f.encode_name
            for f in msgspec.structs.fields(record)  # type: ignore[arg-type]
            if not f.required and NoneType not in get_args(f.type)
        }
        # Fields that are whole numbers, or objects or arrays of them.
        self._whole = {
            f.encode_name
            for f in msgspec.structs.fields(record)  # type: ignore[arg-type]
            if _is_of_whole(f.type)
        }

    def decode(self, body: bytes | msgspec.Raw) -> T:
        """Raises Refusal 400 for what is not JSON, 422 for what is not this shape."""
        try:
            return self._decode(body)
        except msgspec.ValidationError as e:
            if (document := self._otherwise(body)) is not None:
                return self.convert(document)
            raise self._refusal(str(e)) from e
        except NOT_JSON as e:
            document = with_half_characters(bytes(body))
            raise (half_character(document) or not_json(bytes(body), e)) from e

    def _otherwise(self, body: bytes | msgspec.Raw) -> dict[str, Any] | None:
        """The document as it is meant, when it can be written in another way; else None."""
        try:
            document = msgspec.json.decode(body)
        except NOT_JSON:
            return None
        if not isinstance(document, dict):
            return None
        meant = self._as_meant(document)
        is_other = len(meant) < len(document) or any(meant[name] is not document[name] for name in meant)
        return meant if is_other else None

    def _as_meant(self, document: dict[str, Any]) -> dict[str, Any]:
        """The document without optional fields that are null, and with 12 for 12.0 where a whole number
        belongs: JSON does not tell the two apart."""
        return {
            name: _whole(value) if name in self._whole else value
            for name, value in document.items()
            if value is not None or name not in self.not_null
        }

    def decode_optional(self, body: bytes) -> T:
        """As `decode`, for a body that may be left out: none at all, or null, is an empty object."""
        return self.decode(b"{}" if body.strip() in (b"", b"null") else body)

    def convert(self, document: object) -> T:
        """The record of a document that was read before, by `with_half_characters` say.

        Raises Refusal 422."""
        if refusal := half_character(document):
            raise refusal
        if isinstance(document, dict):
            document = self._as_meant(document)
        try:
            return msgspec.convert(document, self.record)
        except (msgspec.ValidationError, UnicodeEncodeError) as e:
            # The second: a text alone, in which half of a surrogate pair stands, where an object should.
            raise self._refusal(str(e)) from e

    def _refusal(self, fault: str) -> Refusal:
        """`fault` is msgspec's text, which names the field but not all that is allowed."""
        names = ", ".join(f"`{name}`" for name in self.allowed)
        if fault.startswith(_UNKNOWN):
            name = fault[len(_UNKNOWN) :].rstrip("`")[:_NAME_MAX]
            fields = f"its fields are {names}" if names else "it has none"
            return invalid(f"`{name}` is no field of {self.noun}; {fields}.", name)
        if missing := _MISSING.match(fault):
            name = missing[1]
            return invalid(f"`{name}` is missing; it must be {self.allowed.get(name)}.", name)
        at = _AT.search(fault)
        if at and at[1] in self.allowed:
            return invalid(f"`{at[1]}` must be {self.allowed[at[1]]}.", at[1])
        with_names = f"a JSON object with {names}" if names else "an empty JSON object"
        return invalid(f"The body must be {self.noun}: {with_names}.", None)


def _is_of_whole(kind: Any) -> bool:
    """Whether the type is a whole number or null, or an object or array of whole numbers."""
    kinds = {kind, *get_args(kind)}
    return int in kinds and float not in kinds


def _whole(value: Any) -> Any:
    """The value, with 12 for 12.0; the same object when there is nothing of that in it."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(one) for one in value] if float in map(type, value) else value
    if isinstance(value, dict):
        return {k: _whole(v) for k, v in value.items()} if float in map(type, value.values()) else value
    return value


def with_half_characters(body: bytes) -> Any:
    """The document of a body that msgspec does not read, in which halves of surrogate pairs stand.

    JSON can carry half a character, such as "\\ud83d" (RFC 8259, section 8.2), and no
    encoding can; msgspec refuses the whole document for one, and does not say where. None
    when the body is no JSON in UTF-8 at all, or is nested too deep. Numbers that no field
    takes become infinities.
    """
    # A call for each integer takes most of the time of a body that is full of them.
    parse_int = _integer if _LONG_INTEGER.search(body) else None
    try:
        return json.loads(body.decode(), parse_int=parse_int, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _DIGITS_MAX else math.inf


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def half_character(document: object) -> Refusal | None:
    """The refusal of an object whose first bad field has half of a surrogate pair; None when none has."""
    for name, value in document.items() if isinstance(document, dict) else ():
        if not _is_whole((name, value)):
            field = name.encode(errors="replace").decode()[:_NAME_MAX]
            detail = f"`{field}` contains half of a surrogate pair; send every character whole."
            return Refusal("invalid_text", 422, detail, field)
    return None


def _is_whole(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def invalid(detail: str, field: str | None) -> Refusal:
    """A 422 for a field, or for the whole body when `field` is None; `detail` is one sentence on what is
    allowed."""
    return Refusal("invalid_field", 422, detail, field)


def not_json(body: bytes, error: Exception) -> Refusal:
    """A 400 for a body that is no JSON in UTF-8, or is nested too deep to be read; `error` is one of
    `NOT_JSON`. The sentence says which of these it is, and never quotes the body."""
    encoding = encoding_of(body)
    if not body:
        more = "; there is none"
    elif encoding != "utf-8":
        more = f"; this one is {encoding.upper()}"
    elif (octet := _first_foreign(body)) is not None:
        more = f"; octet {octet} is none"
    elif isinstance(error, RecursionError):
        more = ", and not nested that deep"
    else:
        place = _BYTE.search(str(error))
        more = f"; it is none at octet {place[1]}" if place else "; it ends within a value"
    return Refusal("invalid_json", 400, f"The body must be JSON in UTF-8{more}.")


def _first_foreign(body: bytes) -> int | None:
    """The place of the first octet that is not UTF-8; None when all are."""
    try:
        body.decode()
    except UnicodeDecodeError as e:
        return e.start
    return None


def _too_large(bytes_max: int) -> Refusal:
    return Refusal("body_too_large", 413, f"The body must be at most {bytes_max} bytes.")


def check_scopes(scopes: Collection[str], all_of_them: Collection[str]) -> None:
    """Raise Refusal 422 for a key that would be good for nothing."""
    if not scopes:
        raise invalid(f"`scopes` must have at least one of {', '.join(all_of_them)}.", "scopes")


def check_time(field: str, time: datetime | None) -> None:
    """Raise Refusal 422 for a time that has no time zone, or is in no year of UTC."""
    try:
        good = time is None or (time.tzinfo is not None and bool(time.astimezone(UTC)))
    except OverflowError:
        good = False
    if not good:
        raise invalid(f"`{field}` must be a time with its time zone, such as 2027-01-01T00:00:00Z.", field)


def checked_networks(networks: Collection[str]) -> tuple[str, ...]:
    """The networks in their shortest form, each once. Raises Refusal 422."""
    found = networks_of(networks)
    if found is None:
        raise invalid(f"`networks` must be {NETWORKS_ALLOWED}.", "networks")
    return tuple(str(network) for network in found)
