"""The codes of all problems that a caller may be answered with: HTTP status, and when it is given.

A code is stable: programs depend on it. A new one is added here, and in the table of docs/api.md.
"""

from __future__ import annotations

from typing import NamedTuple


class ProblemCode(NamedTuple):
    """One code."""

    status: int
    # When it is given, without a full stop.
    when: str


PROBLEM_CODES: dict[str, ProblemCode] = {
    "invalid_json": ProblemCode(400, "the body is not JSON in UTF-8, or is nested too deep"),
    "invalid_body": ProblemCode(400, "the body is not as long, chunked or encoded as its headers say"),
    "invalid_request": ProblemCode(400, "the request is not HTTP"),
    "invalid_idempotency_key": ProblemCode(
        400, "the Idempotency-Key is not 1 to 200 printable ASCII characters, or there are two"
    ),
    "unauthorised": ProblemCode(401, "there is no key, or one that is unknown, wrong, revoked or expired"),
    "insufficient_credit": ProblemCode(402, "the message costs more than the organisation has left"),
    "organisation_suspended": ProblemCode(403, "usage of the organisation is not booked yet"),
    "scope_missing": ProblemCode(403, "the key is not good for this call"),
    "network_not_allowed": ProblemCode(403, "the key is not good for calls from this address"),
    "foreign_origin": ProblemCode(403, "a page that is none of the console's made a call of the console"),
    "csrf_token_wrong": ProblemCode(403, "a call of the console lacks the token of its session"),
    "not_found": ProblemCode(404, "there is nothing of this name, or nothing of the caller's"),
    "method_not_allowed": ProblemCode(405, "the header Allow lists the methods there are"),
    "body_timeout": ProblemCode(408, "the body did not arrive in time"),
    "idempotency_key_reused": ProblemCode(409, "the same Idempotency-Key came with another request"),
    "idempotency_key_used": ProblemCode(
        409, "the request was done before under this Idempotency-Key, and its answer cannot be given again"
    ),
    "already_sent": ProblemCode(409, "a provider has taken the message that is to be canceled"),
    "already_ended": ProblemCode(409, "the message that is to be canceled has ended"),
    "being_sent": ProblemCode(409, "a worker has the message that is to be canceled in hand"),
    "may_be_sent": ProblemCode(409, "a provider may have the message that is to be canceled"),
    "set_aside": ProblemCode(409, "the message that is to be canceled is a dead letter"),
    "units_missing": ProblemCode(409, "the organisation lacks units for usage that is to be booked"),
    "organisation_missing": ProblemCode(409, "the organisation of the usage that is to be booked is missing"),
    "endpoint_exists": ProblemCode(409, "the organisation has an endpoint with this URL"),
    "too_many_endpoints": ProblemCode(409, "the organisation has as many endpoints as it may have"),
    "too_many_auto_replies": ProblemCode(409, "the organisation has as many auto-replies as it may have"),
    "name_taken": ProblemCode(409, "another admin key has this name"),
    "key_over": ProblemCode(409, "a key that is revoked or expired cannot be rotated or changed"),
    "reference_reused": ProblemCode(409, "a top-up of this reference was for other units"),
    "version_conflict": ProblemCode(409, "somebody changed it since the version that was given"),
    "last_node": ProblemCode(409, "no other node does what this one does"),
    "no_providers": ProblemCode(409, "the node has no providers, so workers there would send nothing"),
    "queue_paused": ProblemCode(409, "a queue that is paused cannot be drained"),
    "validity_over": ProblemCode(409, "the validity of the dead letter is over"),
    "unreadable": ProblemCode(409, "another version of the engine wrote the dead letter"),
    "body_too_large": ProblemCode(413, "the body is larger than `http.body_bytes_max`"),
    "batch_too_large": ProblemCode(413, "a batch has more than 1,000 messages"),
    "too_large": ProblemCode(413, "a body with receipts is larger than the engine reads"),
    "too_many": ProblemCode(413, "a request has more receipts than the engine reads"),
    "expectation_failed": ProblemCode(417, "an `Expect` other than 100-continue"),
    "invalid_field": ProblemCode(422, "`field` and `detail` say what is allowed"),
    "invalid_number": ProblemCode(422, "the phone number is none, or could mean another"),
    "invalid_sender": ProblemCode(422, "the sender is none that a network takes"),
    "invalid_text": ProblemCode(422, "the text is empty, too long, or has half of a character"),
    "opted_out": ProblemCode(422, "the recipient wants no messages of the organisation"),
    "sender_not_allowed": ProblemCode(422, "the organisation may not use the sender, or not there"),
    "destination_not_allowed": ProblemCode(422, "the organisation may not send there"),
    "invalid_receipt": ProblemCode(422, "what a provider pushed cannot be read as receipts"),
    "report_too_large": ProblemCode(422, "the report reads too much, or has too many groups"),
    "too_many_logins": ProblemCode(429, "too many attempts to log in to the console from this address"),
    "report_under_way": ProblemCode(429, "another report of the organisation is being made"),
    "plan_under_way": ProblemCode(429, "another plan is being made"),
    "rate_limited": ProblemCode(429, "more than the organisation's `rate_max`"),
    "backlog_full": ProblemCode(429, "as many messages wait as the organisation's `backlog_max` allows"),
    "internal": ProblemCode(500, "the engine failed; name the `request_id` when you report it"),
    "outcome_unknown": ProblemCode(503, "Redis did not answer in time: the messages may be sent"),
    "older_version": ProblemCode(503, "a process of an older version runs, which does not know this yet"),
    "queue_drained": ProblemCode(503, "the queue takes no new messages for now"),
    "node_drained": ProblemCode(503, "the node takes nothing new; another one does"),
    "unavailable": ProblemCode(503, "a store does not answer; try again after Retry-After seconds"),
    "timeout": ProblemCode(503, "the request was not answered in time"),
}
