"""What a message would come to: the call that sends nothing."""

from __future__ import annotations

from functools import partial

import msgspec
from aiohttp import hdrs, web

from engine.api.auth import Keys
from engine.api.decoding import read_body
from engine.api.description import described
from engine.api.messages import DRAFT_SHAPE, draft_of
from engine.api.ports import Services
from engine.api.problems import Problem, problem_of
from engine.api.repeats import Repeats
from engine.api.response import Response, answer_of
from engine.errors import Closed, EngineError, Refusal
from engine.intake.estimate import Estimate, Forcing, SmartEncoding


class _Shown(msgspec.Struct, frozen=True, kw_only=True):
    accepted: bool
    # Why it would not be accepted.
    problem: Problem | None
    encoding: str
    segments: int
    characters: int
    forced_by: Forcing | None
    replaced: int
    smart_encoding: SmartEncoding | None
    price: int | None
    units: int | None
    available: int


class Estimates:
    """The action on /v1/messages/estimate."""

    def __init__(self, services: Services, keys: Keys) -> None:
        self._ingest = services.ingest
        self._repeats = Repeats(services.answers, services.body_bytes_max)
        self._directory = services.directory
        self._body_bytes_max = services.body_bytes_max
        self._keys = keys

    @described(
        "estimate_message",
        "Say what a message would come to, and whether it would be accepted.",
        more="Nothing is sent or held. The limits of the organisation are not looked at.",
        scope="send",
        body=DRAFT_SHAPE,
        examples={"a code": {"to": "+4915112345678", "text": "Your code is 123456"}},
        answers={200: _Shown},
        codes=("organisation_suspended",),
        once=True,
    )
    async def estimate(self, request: web.Request) -> Response:
        """`POST /v1/messages/estimate`: 200 with what the message would come to; nothing is sent or held.

        Raises Refusal 400, 401, 403, 413, 422 for a body that is no message, Unavailable.
        """
        organisation_id = await self._keys.sender(request.headers.get(hdrs.AUTHORIZATION), request)
        return await self._repeats.once(request, organisation_id, partial(self._estimate, organisation_id))

    async def _estimate(self, organisation_id: int, request: web.Request) -> Response:
        draft = draft_of(await read_body(request, self._body_bytes_max))
        balance = await self._directory.balance(organisation_id)
        return answer_of(200, _shown(self._ingest.estimate(organisation_id, draft, balance.available)))


def _shown(estimate: Estimate) -> _Shown:
    refusal = estimate.refusal
    return _Shown(
        accepted=refusal is None,
        problem=None if refusal is None else problem_of(_as_refusal(refusal)),
        **{name: getattr(estimate, name) for name in Estimate.__struct_fields__ if name != "refusal"},
    )


def _as_refusal(error: EngineError) -> Refusal:
    if isinstance(error, Refusal):
        return error
    return Refusal(error.code if isinstance(error, Closed) else "unavailable", 503, str(error))
