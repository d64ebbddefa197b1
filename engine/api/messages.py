"""Messages: one, many at once, and what became of one.

This module decodes requests and renders answers. `engine.intake.ingest` decides what a message may say
and whether it can be paid.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from aiohttp import hdrs, web

from engine.activity.history import MessageView
from engine.api.auth import Keys
from engine.api.decoding import NOT_JSON, Shape, invalid, not_json, read_body, with_half_characters
from engine.api.description import TIME, Answer, described
from engine.api.guard import Action, fingerprint, idempotency_key
from engine.api.parameters import MESSAGE
from engine.api.ports import Draft, Outcome, Render, Services, Submitted
from engine.api.problems import Problem, not_found, problem_of
from engine.api.response import Response, answer_of
from engine.errors import Refusal
from engine.records import DRAFT_FIELDS, Accepted, MessageDraft

_BATCH_MAX = 1_000
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_REPLAYED = {"Idempotency-Replayed": "true"}

_DRAFT = Shape(MessageDraft, "a message", DRAFT_FIELDS)


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    messages: list[MessageDraft]


class _RawBatch(msgspec.Struct, forbid_unknown_fields=True):
    messages: list[msgspec.Raw]


class _Refused(msgspec.Struct):
    error: Problem


class _Results(msgspec.Struct):
    # One for each message, in order.
    results: list[Any]


_decode_batch = msgspec.json.Decoder(_Batch).decode
_RAW_BATCH = Shape(_RawBatch, "a batch", {"messages": f"an array of 1 to {_BATCH_MAX} messages"})
_encode = msgspec.json.Encoder().encode


def drafts_of(body: bytes) -> Sequence[Draft]:
    """The messages of a batch, in order; in place of one that is no message stands its Refusal.

    Raises Refusal 400, 413 or 422 when the body is no batch at all.
    """
    drafts: Sequence[Draft]
    try:
        drafts = _decode_batch(body).messages
    except NOT_JSON:
        # Decode again, each message on its own. Only batches with a bad message take this longer way.
        drafts = _each_of(body)
    _check_count(len(drafts))
    return drafts


def _each_of(body: bytes) -> list[Draft]:
    """As `drafts_of`, for a batch of which at least one is no message."""
    try:
        raws = _RAW_BATCH.decode(body).messages
    except Refusal as refusal:
        if (refusal.code, refusal.field) != ("invalid_text", "messages"):
            raise
    else:
        _check_count(len(raws))
        return [_draft_of(raw, body) for raw in raws]
    # Half a character is in one of the messages: msgspec does not even tell them apart.
    batch = with_half_characters(body)
    if batch.keys() != {"messages"} or not isinstance(batch["messages"], list):
        _RAW_BATCH.convert(batch)
    _check_count(len(batch["messages"]))
    return [_converted(document) for document in batch["messages"]]


def _draft_of(raw: msgspec.Raw, body: bytes) -> Draft:
    try:
        return _DRAFT.decode(raw)
    except Refusal as refusal:
        # Where the messages end in a text that is not JSON would be a guess.
        if refusal.code == "invalid_json":
            raise not_json(body, refusal) from refusal
        return refusal


def _converted(document: object) -> Draft:
    try:
        return _DRAFT.convert(document)
    except Refusal as refusal:
        return refusal


def _check_count(count: int) -> None:
    if count == 0:
        raise invalid(f"`messages` must be an array of 1 to {_BATCH_MAX} messages.", "messages")
    if count > _BATCH_MAX:
        detail = f"`messages` must be at most {_BATCH_MAX} messages; this batch has {count}."
        raise Refusal("batch_too_large", 413, detail, "messages")


def render_one(outcomes: Sequence[Outcome]) -> bytes:
    """The body of a 202 for one message. Raises the message's Refusal, which becomes the whole answer."""
    outcome = outcomes[0]
    if isinstance(outcome, Refusal):
        raise outcome
    return _encode(outcome)


def render_batch(outcomes: Sequence[Outcome]) -> bytes:
    """The body of a 202 with one result per message, in order."""
    results = [
        _refused(position, outcome) if isinstance(outcome, Refusal) else outcome
        for position, outcome in enumerate(outcomes)
    ]
    return _encode(_Results(results))


def _refused(position: int, refusal: Refusal) -> _Refused:
    at = f"messages[{position}]"
    return _Refused(problem_of(refusal, at if refusal.field is None else f"{at}.{refusal.field}"))


_ACCEPTED = {
    "id": "01a202a3-c111-7fd3-92d4-9ad3082ddfbb", "status": "accepted", "queue": "express", "segments": 1,
    "encoding": "GSM-7", "units": 1,
}  # fmt: skip
_ONE = {"to": "+4915112345678", "text": "Your code is 123456", "from": "ACME", "queue": "express"}
_CODES = (
    "insufficient_credit", "organisation_suspended", "invalid_text", "rate_limited", "backlog_full",
    "outcome_unknown", "queue_drained", "node_drained", "invalid_number", "invalid_sender", "opted_out",
    "sender_not_allowed", "destination_not_allowed",
)  # fmt: skip
_SEND = described(
    "send_message",
    "Send one message.",
    more="202 is binding: the message is in its queue and survives any crash, and its `units` are held.",
    scope="send",
    body=_DRAFT,
    limits={"validity": {"minimum": 1, "maximum": 604_800}, "reference": {"maxLength": 200}, "send_at": TIME},
    examples={"a code": _ONE},
    answers={202: Answer(Accepted, example=_ACCEPTED)},
    codes=_CODES,
    once=True,
)
_SEND_MANY = described(
    "send_messages",
    "Send up to 1,000 messages.",
    more="There is one result for each message, in order. One that is refused does not spoil the others.",
    scope="send",
    body=_RAW_BATCH,
    parts={"messages": _DRAFT},
    limits={"messages": {"minItems": 1, "maxItems": _BATCH_MAX}},
    examples={"two messages": {"messages": [_ONE, _ONE | {"text": "Your parcel is here"}]}},
    answers={
        202: Answer(
            _Results, example={"results": [_ACCEPTED, _ACCEPTED]}, items={"results": (Accepted, _Refused)}
        )
    },
    codes=(*_CODES, "batch_too_large"),
    once=True,
)


class Submission(NamedTuple):
    """How a call that submits messages is read and answered."""

    # The body → the messages, in order; in place of one that is no message of a batch its Refusal. Raises
    # Refusal for the body as a whole.
    drafts: Callable[[bytes], Sequence[Draft]]
    # The outcomes → the body of the 202. Raises Refusal in place of it.
    render: Render
    # Says what the call does.
    mark: Callable[[Action], Action]


def _alone(body: bytes) -> Sequence[Draft]:
    return (_DRAFT.decode(body),)


# By path.
SUBMISSIONS = {
    "/v1/messages": Submission(_alone, render_one, _SEND),
    "/v1/messages/batch": Submission(drafts_of, render_batch, _SEND_MANY),
}


_EVENT = {
    "at": "2026-11-22T09:43:35.953000Z", "event": "accepted", "status": "accepted", "provider": "",
    "provider_message_id": "", "code": "", "attempt": 0, "segment": 0, "latency_ms": 0.0,
}  # fmt: skip
_VIEW = {
    "id": "01a202a3-c111-7fd3-92d4-9ad3082ddfbb", "status": "accepted", "charge": "held", "queue": "express",
    "to": "+4915112345678", "from": "ACME", "encoding": "GSM-7", "segments": 1, "price": 1, "units": 1,
    "reference": "order-1", "accepted_at": "2026-11-22T09:43:35.953000Z",
    "expires_at": "2026-11-22T09:48:35.953000Z", "provider": "", "attempts": 0, "outcome_unknown": False,
    "history_complete": True, "events": [_EVENT],
}  # fmt: skip


class Messages:
    """The actions on /v1/messages."""

    def __init__(self, services: Services, keys: Keys) -> None:
        self._ingest = services.ingest
        self._history = services.history
        self._body_bytes_max = services.body_bytes_max
        self._keys = keys

    def submit(self, path: str) -> Action:
        """The action `POST` on one of the paths of `SUBMISSIONS`.

        It answers 202 with a `records.Accepted`, and for a batch with one result for each message, in order,
        of which a refused message is one. It raises Refusal 400, 401, 402 for a message alone, 403, 409,
        413, 422, Unavailable.
        """
        submission = SUBMISSIONS[path]

        async def send(request: web.Request) -> Response:
            organisation_id = await self._keys.sender(request.headers.get(hdrs.AUTHORIZATION))
            body = await read_body(request, self._body_bytes_max)
            key = idempotency_key(request)
            submitted = await self._ingest.submit(
                organisation_id,
                submission.drafts(body),
                render=submission.render,
                idempotency_key=key,
                fingerprint=fingerprint(request, body) if key else b"",
            )
            return accepted(submitted)

        return submission.mark(send)

    @described(
        "get_message",
        "Show one message with its history.",
        scope="read",
        path=MESSAGE,
        answers={200: Answer(MessageView, example=_VIEW)},
    )
    async def show(self, request: web.Request) -> Response:
        """`GET /v1/messages/{id}`: 200 with the message and its history. Raises Refusal 401, 404,
        Unavailable."""
        organisation_id = await self._keys.organisation(request.headers.get(hdrs.AUTHORIZATION))
        message_id = request.match_info["id"]
        if _UUID.fullmatch(message_id):
            view = await self._history(organisation_id, message_id.lower())
            if view is not None:
                return answer_of(200, view)
        raise not_found("The organisation has no message with this id.")


def accepted(submitted: Submitted) -> Response:
    """The answer to a submission."""
    return Response(202, submitted.answer, more=_REPLAYED if submitted.replayed else None)
