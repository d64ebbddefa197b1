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

from engine.api.auth import Keys
from engine.api.decoding import NOT_JSON, Shape, invalid, not_json, read_body, with_half_characters
from engine.api.description import TIME, Answer, described
from engine.api.guard import Action, fingerprint, idempotency_key
from engine.api.ports import Draft, Outcome, Render, Services, Submitted
from engine.api.problems import Problem, problem_of
from engine.api.repeats import REPLAYED
from engine.api.response import Response
from engine.batches import BATCH_MAX, batch_from
from engine.errors import Refusal
from engine.records import DRAFT_FIELDS, Accepted, MessageDraft

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

DRAFT_SHAPE = Shape(MessageDraft, "a message", DRAFT_FIELDS)


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    messages: list[MessageDraft]
    atomic: bool | None = None


class _RawBatch(msgspec.Struct, forbid_unknown_fields=True):
    messages: list[msgspec.Raw]
    atomic: bool | None = None


class _Refused(msgspec.Struct):
    error: Problem


class _Results(msgspec.Struct):
    # The id of the batch; None: none of its messages was accepted.
    batch: str | None
    # One for each message, in order.
    results: list[Any]


_decode_batch = msgspec.json.Decoder(_Batch).decode
_RAW_BATCH = Shape(
    _RawBatch,
    "a batch",
    {"messages": f"an array of 1 to {BATCH_MAX} messages", "atomic": "true or false"},
)
_encode = msgspec.json.Encoder().encode


def read_batch(body: bytes) -> tuple[Sequence[Draft], Render]:
    """(the messages of a batch, in order; how their outcomes are answered). In place of one that is no
    message stands its Refusal.

    Raises Refusal 400, 413 or 422 when the body is no batch at all.
    """
    drafts: Sequence[Draft]
    try:
        batch = _decode_batch(body)
        drafts, atomic = batch.messages, bool(batch.atomic)
    except NOT_JSON:
        # Decode again, each message on its own. Only batches with a bad message take this longer way.
        drafts, atomic = _each_of(body)
    _check_count(len(drafts))
    return drafts, render_atomic if atomic else render_batch


def _each_of(body: bytes) -> tuple[list[Draft], bool]:
    """(the messages, whether all or none are to be accepted) of a batch of which at least one is no
    message."""
    try:
        batch = _RAW_BATCH.decode(body)
    except Refusal as refusal:
        if (refusal.code, refusal.field) != ("invalid_text", "messages"):
            raise
    else:
        _check_count(len(batch.messages))
        return [_draft_of(raw, body) for raw in batch.messages], bool(batch.atomic)
    # Half a character is in one of the messages: msgspec does not even tell them apart.
    document = with_half_characters(body)
    messages = document.get("messages")
    known = document.keys() <= {"messages", "atomic"} and isinstance(document.get("atomic") or False, bool)
    if not known or not isinstance(messages, list):
        _RAW_BATCH.convert(document)
    _check_count(len(messages))
    return [_converted(message) for message in messages], document.get("atomic") is True


def _draft_of(raw: msgspec.Raw, body: bytes) -> Draft:
    try:
        return DRAFT_SHAPE.decode(raw)
    except Refusal as refusal:
        # Where the messages end in a text that is not JSON would be a guess.
        if refusal.code == "invalid_json":
            raise not_json(body, refusal) from refusal
        return refusal


def _converted(document: object) -> Draft:
    try:
        return DRAFT_SHAPE.convert(document)
    except Refusal as refusal:
        return refusal


def _check_count(count: int) -> None:
    if count == 0:
        raise invalid(f"`messages` must be an array of 1 to {BATCH_MAX} messages.", "messages")
    if count > BATCH_MAX:
        detail = f"`messages` must be at most {BATCH_MAX} messages; this batch has {count}."
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
    return _encode(_Results(_batch_id(outcomes), results))


def render_atomic(outcomes: Sequence[Outcome]) -> bytes:
    """As `render_batch`, for a batch of which all messages are accepted or none. Raises the first Refusal,
    which becomes the whole answer."""
    for position, outcome in enumerate(outcomes):
        if isinstance(outcome, Refusal):
            at = f"messages[{position}]"
            detail = f"`{at}`: {outcome.detail} No message of the batch is accepted."
            field = at if outcome.field is None else f"{at}.{outcome.field}"
            raise Refusal(outcome.code, outcome.status, detail, field)
    return render_batch(outcomes)


def _batch_id(outcomes: Sequence[Outcome]) -> str | None:
    for place, outcome in enumerate(outcomes):
        if isinstance(outcome, Accepted):
            return batch_from(outcome.id, place, len(outcomes)).id
    return None


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
    body=DRAFT_SHAPE,
    limits={"validity": {"minimum": 1, "maximum": 604_800}, "reference": {"maxLength": 200}, "send_at": TIME},
    examples={"a code": _ONE},
    answers={202: Answer(Accepted, example=_ACCEPTED)},
    codes=_CODES,
    once=True,
)
_SEND_MANY = described(
    "send_messages",
    "Send up to 1,000 messages.",
    more="There is one result for each message, in order. One that is refused does not spoil the others,"
    " unless the batch is `atomic`: then all are accepted or none.",
    scope="send",
    body=_RAW_BATCH,
    parts={"messages": DRAFT_SHAPE},
    limits={"messages": {"minItems": 1, "maxItems": BATCH_MAX}},
    examples={"two messages": {"messages": [_ONE, _ONE | {"text": "Your parcel is here"}]}},
    answers={
        202: Answer(
            _Results,
            example={"batch": "01a202a3c1117fd392d49ad3082ddfbb-2", "results": [_ACCEPTED, _ACCEPTED]},
            items={"results": (Accepted, _Refused)},
        )
    },
    codes=(*_CODES, "batch_too_large"),
    once=True,
)


class Submission(NamedTuple):
    """How a call that submits messages is read and answered."""

    # The body → (the messages, in order; the outcomes → the body of the 202). In place of one that is no
    # message of a batch stands its Refusal. Raises Refusal for the body as a whole. What makes the answer may
    # raise one in place of it: then nothing is accepted.
    read: Callable[[bytes], tuple[Sequence[Draft], Render]]
    # Says what the call does.
    mark: Callable[[Action], Action]


def draft_of(body: bytes) -> MessageDraft:
    """The one message in a body. Raises Refusal 400, 422."""
    return DRAFT_SHAPE.decode(body)


def _alone(body: bytes) -> tuple[Sequence[Draft], Render]:
    return (draft_of(body),), render_one


# By path.
SUBMISSIONS = {
    "/v1/messages": Submission(_alone, _SEND),
    "/v1/messages/batch": Submission(read_batch, _SEND_MANY),
}


class Messages:
    """The actions on /v1/messages."""

    def __init__(self, services: Services, keys: Keys) -> None:
        self._ingest = services.ingest
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
            organisation_id = await self._keys.sender(request.headers.get(hdrs.AUTHORIZATION), request)
            body = await read_body(request, self._body_bytes_max)
            key = idempotency_key(request)
            drafts, render = submission.read(body)
            submitted = await self._ingest.submit(
                organisation_id,
                drafts,
                render=render,
                idempotency_key=key,
                fingerprint=fingerprint(request, body) if key else b"",
            )
            return accepted(submitted)

        return submission.mark(send)


def accepted(submitted: Submitted) -> Response:
    """The answer to a submission."""
    return Response(202, submitted.answer, more=REPLAYED if submitted.replayed else None)
