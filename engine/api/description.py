"""What the OpenAPI document says about a call, written beside the action that answers it.

    @described(
        "cancel_message",
        "Cancel a message that no worker has yet.",
        scope="send",
        path={"id": Parameter("The id of the message.", TEXT, kind="message")},
        answers={200: MessageView},
        codes=("too_late",),
    )
    async def cancel(self, request: web.Request) -> Response: ...

Bodies are described by the `decoding.Shape` that decodes them, so that the document cannot say anything else
than what is checked. What every call has, or every call with a key, a body or a parameter, is not repeated
here: `engine.api.openapi` adds it. A call without a description is left out of the document, and
`tests/api/test_openapi.py` fails with a sentence that says what to write.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from engine.api.decoding import Shape

A = TypeVar("A", bound=Callable[..., Awaitable[Any]])
Schema = Mapping[str, Any]

TEXT: Schema = {"type": "string"}
YES_OR_NO: Schema = {"enum": ["true", "false"], "default": "false"}
TIME: Schema = {"type": "string", "format": "date-time"}
# The ids of organisations and keys.
ID: Schema = {"type": "integer", "minimum": 1, "maximum": 10**18 - 1}

_ATTRIBUTE = "description"


class Parameter(NamedTuple):
    """One parameter, in the path or in the query."""

    # A sentence.
    means: str
    # JSON Schema of its value.
    schema: Schema
    # Of one in the path: what it names, such as "message".
    kind: str = ""


class Answer(NamedTuple):
    """An answer that is no problem."""

    # The record that is its body; None: it has none.
    record: Any
    # A sentence on when it is given; "" where the summary of the call says it.
    means: str = ""
    # A body as a caller would get it; None: it is not shown.
    example: Any = None
    # Several with ", " between.
    content_type: str = "application/json"
    # By field that is an array, the records of which one is each item; for what a type cannot say.
    items: Mapping[str, tuple[type, ...]] = {}


class Description(NamedTuple):
    """One call."""

    # A name for programs: generated clients call a function so.
    name: str
    # A sentence on what the call does.
    summary: str
    # More sentences, Markdown.
    more: str
    # What the API key must be good for, with blanks between, and "|" before another way; "": it needs no API
    # key. `admin` includes `read`, which is not said here. Admin calls say it in their route. One that has
    # both is a call of organisations on their own that operators have too.
    scope: str
    path: Mapping[str, Parameter]
    query: Mapping[str, Parameter]
    # None: the call has no body.
    body: Shape[Any] | None
    is_body_optional: bool
    # Fields of the body whose items are decoded one by one, and the shape of an item.
    parts: Mapping[str, Shape[Any]]
    # By field of the body, what JSON Schema can say beyond its type.
    limits: Mapping[str, Schema]
    # Bodies that get the first of `answers`.
    examples: Mapping[str, Any]
    # By HTTP status.
    answers: Mapping[int, Answer]
    # Codes of problems (`engine.api.problem_codes`) beyond those that every call of its kind may have.
    codes: tuple[str, ...]
    # Whether it honours an Idempotency-Key.
    once: bool
    # Whether its query may have anything: that of a call that needs no key, whose address others make, such
    # as a provider, a load balancer, or whoever links to a page.
    any_query: bool


def described(
    name: str,
    summary: str,
    *,
    more: str = "",
    scope: str = "",
    path: Mapping[str, Parameter] | None = None,
    query: Mapping[str, Parameter] | None = None,
    body: Shape[Any] | None = None,
    is_body_optional: bool = False,
    parts: Mapping[str, Shape[Any]] | None = None,
    limits: Mapping[str, Schema] | None = None,
    examples: Mapping[str, Any] | None = None,
    answers: Mapping[int, Any],
    codes: tuple[str, ...] = (),
    once: bool = False,
    any_query: bool = False,
) -> Callable[[A], A]:
    """Describe an action for the OpenAPI document; the arguments are the fields of `Description`.

    `answers`: by HTTP status, the record of the body alone or an `Answer`.
    """
    description = Description(
        name, summary, more, scope, path or {}, query or {}, body, is_body_optional, parts or {},
        limits or {}, examples or {},
        {status: a if isinstance(a, Answer) else Answer(a) for status, a in answers.items()},
        codes, once, any_query,
    )  # fmt: skip

    def mark(action: A) -> A:
        setattr(action, _ATTRIBUTE, description)
        return action

    return mark


def like(described_one: Callable[..., Awaitable[Any]], action: A) -> A:
    """`action`, with what is said about one that it calls."""
    setattr(action, _ATTRIBUTE, getattr(described_one, _ATTRIBUTE, None))
    return action


def description_of(action: Callable[..., Awaitable[Any]]) -> Description | None:
    """What was said about this action, a function or a method; None: nothing."""
    found = getattr(action, _ATTRIBUTE, None)
    return found if isinstance(found, Description) else None
