"""The parameters of a call as other gateways take them: in the query, or in a form."""

from __future__ import annotations

from urllib.parse import parse_qsl

from aiohttp import hdrs, web

from engine.api.decoding import read_body
from engine.errors import Refusal

_FIELDS_MAX = 200
_FORM = "application/x-www-form-urlencoded"


# Twilio's number for a parameter that it does not take here.
_UNSUPPORTED = 21609


class Unsupported(Exception):
    """The call asks for what is not done here, or lacks what is needed; its text is one sentence."""

    def __init__(self, sentence: str, twilio_code: int = _UNSUPPORTED) -> None:
        super().__init__(sentence)
        self.twilio_code = twilio_code


async def parameters_of(
    request: web.Request, body_bytes_max: int, charset: str = "utf-8"
) -> dict[str, bytes]:
    """By name the value, as octets: what they mean depends on other parameters. That of the form counts
    before that of the query.

    Raises Unsupported for one that stands twice: with one of two numbers, the other would get nothing. Raises
    Refusal 400, also for a body that is no form, and 413.
    """
    # Latin-1 gives each octet back as it came.
    found = _pairs(request.raw_path.partition("?")[2])
    if request.method == hdrs.METH_POST:
        body = await read_body(request, body_bytes_max)
        if body and request.content_type != _FORM:
            raise Refusal("invalid_body", 400, f"The body must be {_FORM}.", "Content-Type")
        found |= _pairs(body.decode("latin-1"))
    return found


def _pairs(text: str) -> dict[str, bytes]:
    try:
        pairs = parse_qsl(
            text, keep_blank_values=True, max_num_fields=_FIELDS_MAX, encoding="latin-1", errors="strict"
        )
        found = {name: value.encode("latin-1") for name, value in pairs}
    except ValueError as e:
        raise Refusal(
            "invalid_body", 400, f"There may be {_FIELDS_MAX} parameters, as a form writes them."
        ) from e
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Unsupported(f"Parameter {ascii(twice[:40])[1:-1]} must be given once.")
    return found


def whole(name: str, text: str, least: int, most: int) -> int:
    """A whole number. Raises Unsupported."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and least <= int(text) <= most):
        raise Unsupported(f"{name} must be a whole number from {least} to {most}.")
    return int(text)
