"""Auto-replies: what is answered in the name of an organisation to who writes STOP, START or HELP.

The organisation has the calls under /v1/auto-replies, and operators have the same for each organisation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import msgspec
from aiohttp import hdrs, web

from engine.api.admin import organisation_id_of
from engine.api.admin_route import AdminRoute
from engine.api.auth import Keys
from engine.api.decoding import Shape, invalid, read_body
from engine.api.description import described, like
from engine.api.guard import Action
from engine.api.ports import CommonServices
from engine.api.repeats import Repeats
from engine.api.response import Response, answer_of
from engine.errors import Refusal
from engine.inbound.auto_replies import AutoReply, ReplyAction
from engine.intake.segments import measure

OWN_AUTO_REPLIES = "/v1/auto-replies"
# Each segment is paid for.
SEGMENTS_MAX = 4
_CHARACTERS_MAX = 1600


class _Replies(msgspec.Struct):
    auto_replies: list[AutoReply]


class _NewReply(msgspec.Struct, forbid_unknown_fields=True):
    action: ReplyAction
    text: str
    number: str = ""
    language: str = ""


class _OldReply(msgspec.Struct, forbid_unknown_fields=True):
    action: ReplyAction
    number: str = ""
    language: str = ""


_FIELDS = {
    "action": '"stop", "start" or "help"',
    "number": 'a number or short code as a string, such as "12345", or empty',
    "language": 'a code of ISO 639 as a string, such as "de", or empty',
}
_NEW = Shape(_NewReply, "a reply", {**_FIELDS, "text": "a string, empty for no answer"})
_OLD = Shape(_OldReply, "a reply to remove", _FIELDS)


class AutoReplies:
    """The actions on the auto-replies of one organisation."""

    def __init__(self, services: CommonServices) -> None:
        self._book = services.recipients.auto_replies
        self._words = services.recipients.words
        self._body_bytes_max = services.body_bytes_max
        self._repeats = Repeats(services.answers, services.body_bytes_max)

    def of_callers(self, keys: Keys, path: str) -> dict[str, dict[str, Action]]:
        """The actions of organisations on their own, by path and method."""

        async def show(request: web.Request) -> Response:
            authorization = request.headers.get(hdrs.AUTHORIZATION)
            return await self._show(request, await keys.organisation(authorization, request))

        def changing(answer: _Answer) -> Action:
            async def action(request: web.Request) -> Response:
                return await answer(
                    request, await keys.manager(request.headers.get(hdrs.AUTHORIZATION), request, "send")
                )

            return like(answer, action)

        return {
            path: {"GET": like(self._show, show), "PUT": changing(self._put)},
            f"{path}/remove": {"POST": self._repeats.of_callers(keys, changing(self._remove))},
        }

    def of_operators(self, path: str) -> Iterator[AdminRoute]:
        """The same for operators, on the organisation that the path names."""

        def action(answer: _Answer) -> Action:
            async def act(request: web.Request) -> Response:
                return await answer(request, organisation_id_of(request))

            return like(answer, act)

        yield AdminRoute("GET", path, action(self._show), "read")
        yield AdminRoute("PUT", path, action(self._put), "operate")
        yield AdminRoute("POST", f"{path}/remove", action(self._remove), "operate")

    @described(
        "list_auto_replies",
        "List what is answered to STOP, START and HELP.",
        scope="read",
        answers={200: _Replies},
    )
    async def _show(self, request: web.Request, organisation_id: int) -> Response:
        """`GET`: 200 with all of them. Raises Refusal 401, 403, 404, Unavailable."""
        return answer_of(200, _Replies(await self._book.of(organisation_id)))

    @described(
        "put_auto_reply",
        "Say what is answered to STOP, START or HELP.",
        more="The reply is a message of the organisation, from the number that was written to, and charged."
        " Without `number` it counts for every number that has no reply of its own; so it is with `language`,"
        " which is that of the word. An empty `text` answers nothing there.",
        scope="send|admin",
        body=_NEW,
        limits={
            "text": {"maxLength": _CHARACTERS_MAX},
            "number": {"pattern": r"^(\+?[0-9]{2,15})?$"},
            "language": {"pattern": "^([a-z]{2,3})?$"},
        },
        examples={
            "to everybody": {"action": "stop", "text": "You get no more messages of ACME."},
            "in German": {"action": "help", "language": "de", "text": "ACME GmbH, Telefon 089 123456"},
        },
        answers={200: AutoReply},
        codes=("too_many_auto_replies", "invalid_text"),
    )
    async def _put(self, request: web.Request, organisation_id: int) -> Response:
        """`PUT`: 200 with the reply as it is kept. Safe to repeat.

        Raises Refusal 400, 401, 403, 404, 409, 413, 422, Unavailable.
        """
        wanted = _NEW.decode(await read_body(request, self._body_bytes_max))
        self._check(wanted.text)
        reply = AutoReply(
            action=wanted.action, number=wanted.number, language=wanted.language, text=wanted.text
        )
        return answer_of(200, await self._book.put(organisation_id, reply))

    @described(
        "remove_auto_reply",
        "Take a reply back; without it, nothing is answered there.",
        scope="send|admin",
        body=_OLD,
        limits={
            "number": {"pattern": r"^(\+?[0-9]{2,15})?$"},
            "language": {"pattern": "^([a-z]{2,3})?$"},
        },
        examples={"to everybody": {"action": "stop"}},
        answers={204: None},
    )
    async def _remove(self, request: web.Request, organisation_id: int) -> Response:
        """`POST .../remove`: 204, also when there is none.

        Raises Refusal 400, 401, 403, 404, 413, 422, Unavailable.
        """
        old = _OLD.decode(await read_body(request, self._body_bytes_max))
        await self._book.remove(organisation_id, old.action, old.number, old.language)
        return Response(204)

    def _check(self, text: str) -> None:
        """Raise Refusal 422 for a text that cannot be a reply."""
        if not text:
            return
        if "\0" in text:
            raise Refusal("invalid_text", 422, "`text` must be without the character U+0000.", "text")
        if len(text) > _CHARACTERS_MAX or (segments := measure(text).segments) > SEGMENTS_MAX:
            given = f"{len(text)} characters" if len(text) > _CHARACTERS_MAX else f"{segments} segments"
            raise invalid(f"`text` must be at most {SEGMENTS_MAX} segments; this text has {given}.", "text")
        wish = self._words.find(text)
        if wish.action and not wish.about:
            # The other side may be an engine too.
            raise invalid("`text` must not be one of the words STOP, START and HELP itself.", "text")


_Answer = Callable[[web.Request, int], Awaitable[Response]]
