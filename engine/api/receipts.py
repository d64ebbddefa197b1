"""Where providers push their receipts: `/v1/providers/{name}/receipts/{token}`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from aiohttp import web

from engine.api.description import TEXT, Answer, Parameter, described
from engine.api.ports import Services
from engine.api.pushes import answer_push, until_kept
from engine.api.response import Response
from engine.errors import Refusal
from engine.problem_records import ProblemKind
from engine.receipts.records import Receipt

# How much of a body that cannot be read is looked at.
_SAMPLE_BYTES = 1000


class Receipts:
    """The actions on the address of a provider's receipts."""

    def __init__(self, services: Services) -> None:
        self._readers = services.receipt_readers
        self._sink = services.receipts
        self._problems = services.problems
        self._now_us = services.now_us
        self._body_bytes_max = services.body_bytes_max

    @described(
        "push_receipts",
        "Take receipts that a provider pushes, in the form that the provider's section describes.",
        more="The answer is what that section says. The word in the path is the provider's `receipt_token`.",
        path={
            "name": Parameter("The name of the provider.", TEXT, "provider"),
            "token": Parameter("Its `receipt_token`.", TEXT, "receipt_token"),
        },
        answers={200: Answer(None, "The receipts are kept.", content_type="*/*")},
        codes=("invalid_receipt", "too_large", "too_many"),
        any_query=True,
    )
    async def take(self, request: web.Request) -> Response:
        """Take a request with receipts. The answer that the provider expects goes out only once the
        receipts are in Redis.

        Raises Refusal 404 for an unknown address, 400, 413 or 422 for a request that cannot be
        read, after what could be read of it is kept; Unavailable when the receipts cannot be kept.
        """
        return await answer_push(
            request, self._readers, self._keep, body_bytes_max=self._body_bytes_max, now_us=self._now_us,
            unread=partial(self._note, request),
        )  # fmt: skip

    async def _keep(self, receipts: Sequence[Receipt]) -> None:
        await until_kept(partial(self._sink.put, receipts), "receipts")

    def _note(self, request: web.Request, refusal: Refusal, query: str, body: bytes) -> None:
        lead = f"{refusal.detail} {request.method} "
        sample = f"?{query}\n".encode(errors="replace") + body[:_SAMPLE_BYTES]
        self._problems.note(request.match_info["name"], ProblemKind.receipt_unread, sample, lead=lead)
