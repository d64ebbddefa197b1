"""Twilio's `Messages` resource (its REST API of 2010-04-01): create one, fetch one."""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Sequence
from datetime import datetime
from email.utils import format_datetime
from typing import Any

import msgspec
from aiohttp import hdrs, web

from engine import ids
from engine.activity.history import MessageView, rfc3339
from engine.api.auth import Keys
from engine.api.compatible.parameters import Unsupported, parameters_of, whole
from engine.api.guard import checked_key, fingerprint_of
from engine.api.ports import Outcome, Services
from engine.api.problems import when_again
from engine.api.response import Response, answer_of
from engine.errors import Refusal, Unavailable
from engine.records import Accepted, MessageDraft

_TOKEN = "I-Twilio-Idempotency-Token"  # noqa: S105 - the name of a header
_READ = {"To", "From", "Body", "ValidityPeriod", "SendAt", "ScheduleType"}
# What changes neither the message nor where it goes.
_IGNORED = {
    "MessagingServiceSid", "ProvideFeedback", "Attempt", "SmartEncoded", "ShortenUrls", "RiskCheck",
    "AddressRetention", "ContentRetention", "ForceDelivery", "ApplicationSid", "MaxPrice", "TrafficType",
}  # fmt: skip
# By our code: Twilio's number, and its HTTP status.
_CODES = {
    "unauthorised": (20003, 401),
    "scope_missing": (20003, 403),
    "network_not_allowed": (20003, 403),
    "not_found": (20404, 404),
    "invalid_number": (21211, 400),
    "invalid_sender": (21212, 400),
    "invalid_text": (21617, 400),
    "insufficient_credit": (30002, 402),
    "organisation_suspended": (30002, 403),
    "rate_limited": (20429, 429),
    "backlog_full": (20429, 429),
    "idempotency_key_reused": (20409, 409),
    "idempotency_key_used": (20409, 409),
}
_INVALID, _UNAVAILABLE, _NO_NUMBER, _NO_TEXT = (20001, 400), 20503, 21604, 21602
_STATUSES = {
    "accepted": "queued", "scheduled": "scheduled", "sent": "sent", "delivered": "delivered",
    "undelivered": "undelivered", "outcome_unknown": "sent",
}  # fmt: skip
_SID = re.compile(r"SM([0-9a-f]{32})")


class Twilio:
    """The actions on /2010-04-01/Accounts/{account}/Messages. What they answer is Twilio's JSON."""

    def __init__(self, services: Services, keys: Keys) -> None:
        self._ingest = services.ingest
        self._history = services.history
        self._body_bytes_max = services.body_bytes_max
        self._keys = keys

    async def send(self, request: web.Request) -> Response:
        """`POST .../Messages.json`: 201 with the message. Twilio's header for it makes it idempotent.

        What is refused, or cannot be taken now, is answered as Twilio does. Raises Refusal 413.
        """
        try:
            found = await parameters_of(request, self._body_bytes_max)
        except Unsupported as e:
            return _problem(e.twilio_code, 400, str(e))
        try:
            organisation_id = await self._keys.sender(_authorization(request), request)
            draft = _draft(found)
            token = request.headers.get(_TOKEN, "")
            body = msgspec.msgpack.encode(draft)
            submitted = await self._ingest.submit(
                organisation_id,
                [draft],
                render=lambda outcomes: _render(outcomes, draft, request.match_info["account"]),
                idempotency_key=f"twilio {checked_key(token)}" if token else "",
                fingerprint=fingerprint_of("POST", "/2010-04-01", body) if token else b"",
            )
        except Unsupported as e:
            return _problem(e.twilio_code, 400, str(e))
        except (Refusal, Unavailable) as e:
            return _refused(e)
        return Response(201, submitted.answer)

    async def show(self, request: web.Request) -> Response:
        """`GET .../Messages/{message}.json`: 200 with the message, and its text where texts are recorded."""
        try:
            organisation_id = await self._keys.organisation(_authorization(request), request)
            sid = _SID.fullmatch(request.match_info["message"])
            view = await self._history(organisation_id, str(uuid.UUID(sid[1]))) if sid else None
            if not isinstance(view, MessageView):
                raise Refusal("not_found", 404, "The account has no message with this sid.")
        except (Refusal, Unavailable) as e:
            return _refused(e)
        account = request.match_info["account"]
        status = _STATUSES.get(view.status, "failed")
        text = view.text or ""
        return answer_of(
            200,
            _message(view.id, account, view.to, view.sender, text, view.segments, status, view.accepted_at),
        )


def _authorization(request: web.Request) -> str:
    """The key of a caller, who sends it as the password of his account. Raises Refusal 401."""
    scheme, _, encoded = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    try:
        account, _, key = (
            base64.b64decode(encoded if scheme.lower() == "basic" else "").decode().partition(":")
        )
    except (binascii.Error, UnicodeDecodeError):
        account = key = ""
    if account != request.match_info["account"]:
        raise Refusal(
            "unauthorised", 401, "The user must be the account in the path, and the password an API key."
        )
    return f"Bearer {key}"


def _draft(found: dict[str, bytes]) -> MessageDraft:
    """Raises Unsupported."""
    for name, value in found.items():
        if value and name not in _READ and name not in _IGNORED:
            raise Unsupported(f"The parameter {name} is not supported here.")
    try:
        text = {name: value.decode() for name, value in found.items()}
    except UnicodeDecodeError as e:
        raise Unsupported("The parameters must be in UTF-8.") from e
    if not text.get("To"):
        raise Unsupported("A 'To' phone number is required.", _NO_NUMBER)
    if not text.get("Body"):
        raise Unsupported("Message body is required.", _NO_TEXT)
    if text.get("ScheduleType", "fixed") != "fixed":
        raise Unsupported("ScheduleType must be fixed.")
    validity = text.get("ValidityPeriod")
    return MessageDraft(
        to=text["To"],
        text=text["Body"],
        sender=text.get("From") or None,
        validity=whole("ValidityPeriod", validity, 1, 604_800) if validity else None,
        send_at=text.get("SendAt") or None,
    )


def _render(outcomes: Sequence[Outcome], draft: MessageDraft, account: str) -> bytes:
    """Raises the Refusal of the message."""
    outcome = outcomes[0]
    if not isinstance(outcome, Accepted):
        raise outcome
    at = rfc3339(ids.accepted_at_us(outcome.id) or 0)
    status = _STATUSES[outcome.status]
    return msgspec.json.encode(
        _message(outcome.id, account, draft.to, draft.sender or "", draft.text, outcome.segments, status, at)
    )


def _message(
    message_id: str, account: str, to: str, sender: str, text: str, segments: int, status: str, at: str
) -> dict[str, Any]:
    """A message as Twilio shows it; `at`: when it was accepted."""
    sid = f"SM{uuid.UUID(message_id).hex}"
    path = f"/2010-04-01/Accounts/{account}/Messages/{sid}"
    created = format_datetime(datetime.fromisoformat(at))
    return {
        "sid": sid, "account_sid": account, "api_version": "2010-04-01", "body": text, "to": to,
        "from": sender or None, "status": status, "direction": "outbound-api", "num_segments": str(segments),
        "num_media": "0", "date_created": created, "date_updated": created, "date_sent": None,
        "messaging_service_sid": None, "error_code": None, "error_message": None, "price": None,
        "price_unit": None, "uri": f"{path}.json", "subresource_uris": {"media": f"{path}/Media.json"},
    }  # fmt: skip


def _refused(error: Refusal | Unavailable) -> Response:
    if isinstance(error, Unavailable):
        return _problem(_UNAVAILABLE, 503, error.public, when_again(error))
    code, status = _CODES.get(error.code, _INVALID)
    return _problem(code, status, error.detail, when_again(error))


def _problem(code: int, status: int, message: str, more: dict[str, str] | None = None) -> Response:
    """`more`: headers."""
    more_info = f"https://www.twilio.com/docs/errors/{code}"
    body = {"code": code, "message": message, "more_info": more_info, "status": status}
    return Response(status, msgspec.json.encode(body), more=more)
