"""A POST that is repeated with its Idempotency-Key gets its first answer again.

Calls that submit messages keep theirs with the messages (`engine.intake.kept_answer`). For all others it is
done here, before the call itself: an answer that says that it is done (2xx) is kept, a refusal is not,
because the same request may be carried out later. An answer with the secret of a new key is never kept, and
one beyond `_OCTETS_MAX` is not either.

    killed after the call, or the answer is not kept    the repetition is carried out; each of these calls may
                                                        be repeated, or says 409 itself
"""

from __future__ import annotations

import functools
import struct

from aiohttp import hdrs, web

from engine.api.auth import Keys
from engine.api.decoding import BODY, read_body
from engine.api.guard import Action, fingerprint, idempotency_key
from engine.api.ports import KeptAnswers
from engine.api.response import Response
from engine.errors import Refusal

REPLAYED = {"Idempotent-Replayed": "true"}
# The largest answer that is kept, octets.
_OCTETS_MAX = 16_384
# What begins an answer that is kept here, and its status.
_HEAD = struct.Struct(">BH")
_FORM = 3


class Repeats:
    """Answers repetitions for one process."""

    def __init__(self, answers: KeptAnswers, body_bytes_max: int) -> None:
        self._answers = answers
        self._body_bytes_max = body_bytes_max

    def of_callers(self, keys: Keys, action: Action) -> Action:
        """The action of a call of organisations, which change something with keys that may send or manage."""

        @functools.wraps(action)
        async def repeated(request: web.Request) -> Response:
            organisation_id = await keys.manager(request.headers.get(hdrs.AUTHORIZATION), request, "send")
            return await self.once(request, organisation_id, action)

        return repeated

    async def once(self, request: web.Request, organisation_id: int | None, action: Action) -> Response:
        """The answer of `action`, or the first one to the same request. No organisation: an admin call.

        Raises Refusal 409 when the key was used for another request, what `action` raises, Unavailable."""
        key = idempotency_key(request)
        if not key:
            return await action(request)
        body = request[BODY] = await read_body(request, self._body_bytes_max)
        own = fingerprint(request, body)
        first = await self._answers.begin(organisation_id, key, own)
        if first is not None and first.fingerprint != own:
            raise _reused()
        if first is not None and (replayed := _unpacked(first.answer)) is not None:
            return replayed
        response = await action(request)
        if 200 <= response.status < 300 and len(response.whole_body) <= _OCTETS_MAX:
            answer = _HEAD.pack(_FORM, response.status) + response.whole_body
            await self._answers.keep(organisation_id, key, own, answer)
        return response


def _unpacked(answer: bytes) -> Response | None:
    """The first answer; None when there is none, or none that this version can read."""
    if len(answer) < _HEAD.size:
        return None
    form, status = _HEAD.unpack_from(answer)
    if form != _FORM or not 200 <= status < 300:
        return None
    return Response(status, answer[_HEAD.size :], more=REPLAYED)


def _reused() -> Refusal:
    return Refusal(
        "idempotency_key_reused",
        409,
        "This Idempotency-Key was used before for another request; use a new key for a new request.",
        "Idempotency-Key",
    )
