"""From the bytes of a request to a record, or to one sentence on what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Generic, TypeVar

import msgspec
from aiohttp import web

from engine.errors import Refusal

T = TypeVar("T")

# Depth bombs and strings that are not UTF-8 come out of msgspec as errors of their own.
NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_UNKNOWN = "Object contains unknown field `"
_MISSING = re.compile(r"Object missing required field `([^`]*)`")
_AT = re.compile(r" - at `\$\.([A-Za-z_]+)")
_NAME_MAX = 40


async def read_body(request: web.Request, bytes_max: int) -> bytes:
    """The whole body. Raises Refusal 413 when it is larger, 400 when it ends early."""
    content = request.content
    try:
        if content.is_eof():
            # It came with the headers, as most do: nothing to wait for.
            body = content.read_nowait()
        else:
            body = await _rest(request, bytes_max)
    except (web.RequestPayloadError, ConnectionError) as e:
        raise Refusal(
            "invalid_body", 400, "The body must be as long and as encoded as its headers say."
        ) from e
    if len(body) > bytes_max:
        raise _too_large(bytes_max)
    return body


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
        self._decode = msgspec.json.Decoder(record).decode
        self._noun = noun
        self._allowed = allowed

    def decode(self, body: bytes | msgspec.Raw) -> T:
        """Raises Refusal 400 for what is not JSON, 422 for what is not this shape."""
        try:
            return self._decode(body)
        except msgspec.ValidationError as e:
            raise self._refusal(str(e)) from e
        except NOT_JSON as e:
            raise not_json() from e

    def _refusal(self, told: str) -> Refusal:
        """`told` is msgspec's text, which names the field but not all that is allowed."""
        names = ", ".join(f"`{name}`" for name in self._allowed)
        if told.startswith(_UNKNOWN):
            name = told[len(_UNKNOWN) :].rstrip("`")[:_NAME_MAX]
            return invalid(f"`{name}` is no field of {self._noun}; its fields are {names}.", name)
        if missing := _MISSING.match(told):
            name = missing[1]
            return invalid(f"`{name}` is missing; it must be {self._allowed.get(name)}.", name)
        at = _AT.search(told)
        if at and at[1] in self._allowed:
            return invalid(f"`{at[1]}` must be {self._allowed[at[1]]}.", at[1])
        return invalid(f"The body must be {self._noun}: a JSON object with {names}.", None)


def invalid(detail: str, field: str | None) -> Refusal:
    return Refusal("invalid_field", 422, detail, field)


def not_json() -> Refusal:
    return Refusal("invalid_json", 400, "The body must be JSON in UTF-8.")


def _too_large(bytes_max: int) -> Refusal:
    return Refusal("body_too_large", 413, f"The body must be at most {bytes_max} bytes.")
