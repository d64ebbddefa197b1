"""Kannel's `/cgi-bin/sendsms` (its user guide, 10.3 "Using the HTTP Interface of the SMS Gateway")."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from aiohttp import web

from engine.api.auth import Keys
from engine.api.compatible.parameters import Unsupported, parameters_of, whole
from engine.api.ports import Outcome, Services
from engine.api.problems import when_again
from engine.api.response import Response
from engine.errors import Refusal, Unavailable
from engine.records import MessageDraft

ACCEPTED = "0: Accepted for delivery"
QUEUED = "3: Queued for later delivery"
_REFUSED = "Authorization failed for sendsms"
_LATER = "Temporal failure, try again later."
# What says how a message is carried, which routes say here, or is for Kannel's own log.
_IGNORED = {
    "username",
    "user",
    "account",
    "smsc",
    "binfo",
    "priority",
    "dlr-mask",
    "pid",
    "rpi",
    "meta-data",
    "compress",
}
_READ = {"password", "pass", "to", "text", "from", "coding", "charset", "validity", "deferred"}
# Names of Python's codecs that a text may come in: tables of characters, and the forms of Unicode. Its others
# are no charsets (`punycode`, `unicode_escape`): they fail in ways of their own, and the time of some grows
# with the square of the text, so that one request would hold up the process.
_CHARSETS = re.compile(
    r"ascii|utf-(7|8|8-sig|16|16-[bl]e|32|32-[bl]e)|iso8859-\d+|cp\d+|koi8-[rtu]|mac-\w+|tis-620|ptcp154"
    r"|gb\w+|hz|big5\w*|shift_\w+|euc_\w+|iso2022_\w+|johab"
)
_RECIPIENTS_MAX = 1_000
_MINUTES_MAX = 10_080
_DEFERRED_MAX = 43_200


class Kannel:
    """The action on /cgi-bin/sendsms. What it answers is text, as Kannel's is."""

    def __init__(self, services: Services, keys: Keys) -> None:
        self._ingest = services.ingest
        self._body_bytes_max = services.body_bytes_max
        self._now_us = services.now_us
        self._keys = keys

    async def send(self, request: web.Request) -> Response:
        """Send the text to each number of `to`; 202 when at least one was accepted.

        What is refused, or cannot be taken now, is answered as Kannel does. Raises Refusal 400, 413.
        """
        try:
            found = await parameters_of(request, self._body_bytes_max)
        except Unsupported as e:
            return _answer(400, str(e))
        try:
            key = _text(found, "password") or _text(found, "pass")
            organisation_id = await self._keys.sender(f"Bearer {key}", request)
            drafts = self._drafts(found)
            submitted = await self._ingest.submit(organisation_id, drafts, render=_render)
        except Unsupported as e:
            return _answer(400, str(e))
        except Unavailable as e:
            return _answer(503, f"{_LATER} {e.public}", when_again(e))
        except Refusal as e:
            if e.status in (401, 403):
                return _answer(403, _REFUSED)
            return _answer(int(e.status), e.detail, when_again(e))
        return Response(202, submitted.answer, content_type="text/plain; charset=utf-8")

    def _drafts(self, found: dict[str, bytes]) -> list[MessageDraft]:
        """A message for each number. Raises Unsupported."""
        for name, value in found.items():
            if value and name not in _IGNORED and name not in _READ:
                raise Unsupported(f"Parameter {name} is not supported, rejected")
        numbers = _text(found, "to").split()
        if not numbers:
            raise Unsupported("Missing receiver number, rejected")
        if len(numbers) > _RECIPIENTS_MAX:
            raise Unsupported(f"More than {_RECIPIENTS_MAX} receiver numbers, rejected")
        text = _text_of(found)
        if not text:
            raise Unsupported("Missing text, rejected")
        validity = _text(found, "validity")
        return [
            MessageDraft(
                to=_number(number),
                text=text,
                sender=_text(found, "from") or None,
                validity=60 * whole("validity", validity, 1, _MINUTES_MAX) if validity else None,
                send_at=self._send_at(_text(found, "deferred")),
            )
            for number in numbers
        ]

    def _send_at(self, minutes: str) -> str | None:
        if not minutes:
            return None
        wait = timedelta(minutes=whole("deferred", minutes, 0, _DEFERRED_MAX))
        return (datetime.fromtimestamp(self._now_us() / 1e6, UTC) + wait).isoformat() if wait else None


def _render(outcomes: Sequence[Outcome]) -> bytes:
    """Raises the Refusal of the first when none was accepted."""
    refused = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
    if len(refused) == len(outcomes):
        raise refused[0]
    later = all(isinstance(o, Refusal) or o.status == "scheduled" for o in outcomes)
    lines = [QUEUED if later else ACCEPTED]
    lines += [f"Denied receiver {n}: {o.detail}" for n, o in enumerate(outcomes, 1) if isinstance(o, Refusal)]
    return "\n".join(lines).encode()


def _text_of(found: dict[str, bytes]) -> str:
    """The text; `coding` 2 without a `charset` is UTF-16BE, as in Kannel. Raises Unsupported."""
    coding = _text(found, "coding")
    if coding not in ("", "0", "2"):
        raise Unsupported("Only coding 0 and 2 are supported, rejected")
    charset = _text(found, "charset") or ("utf-16-be" if coding == "2" else "utf-8")
    try:
        codec = codecs.lookup(charset)
    except (LookupError, ValueError):  # a ValueError: U+0000 in the name
        codec = None
    if codec is None or not _CHARSETS.fullmatch(codec.name):
        raise Unsupported("The charset is not known, rejected")
    try:
        return codec.decode(found.get("text", b""))[0]
    except UnicodeDecodeError as e:
        raise Unsupported(f"The text must be in {codec.name}, rejected") from e


def _number(number: str) -> str:
    """As the engine reads it: Kannel's are international without a plus."""
    return f"+{number}" if number.isascii() and number.isdecimal() and not number.startswith("0") else number


def _text(found: dict[str, bytes], name: str) -> str:
    return found.get(name, b"").decode("utf-8", "replace").strip()


def _answer(status: int, text: str, more: dict[str, str] | None = None) -> Response:
    """`more`: headers."""
    return Response(status, text.encode(), content_type="text/plain; charset=utf-8", more=more)
