"""What a provider's answer means: accepted or not, the provider's id, its code.

The rules of `AnswerTable` are asked first, in the order accepted, throttled, temporary,
permanent; the first with a condition that holds decides. When none does, the status does:

    2xx                          accepted, if there are no rules for accepted; else, when
                                 the answer has a code, `otherwise`; else unknown
    429                          throttled
    408, 5xx, 3xx                temporary (redirects are not followed)
    401, 402, 407                temporary: they are about the account, not the message,
                                 and end when the operator has paid or corrected the
                                 password; until then the messages wait or go elsewhere
    other 4xx                    permanent in the provider's own words, else temporary

A proxy, a firewall or a wrong address refuses too, and says nothing about the message by it.
So a refusal that no rule names ends a message only in the provider's own words: it has
the provider's code; or it is 400, 409 or 422 with a body in the provider's form (a JSON object or list
where the description speaks of JSON, else any text). A page in HTML or an empty body never is the
provider's own word. What is not is `foreign`; the provider fails by it, not the message. A page with
the status 2xx is unknown.

An accepted answer without the id that it should have is `unknown`: it may be the page of a box
on the way, and a message that is wrongly counted as sent is lost. With `id_required = false` it is
accepted.

A provider that answers with one entry for each segment ("messages.*.status") has accepted
the message when all entries say so; for any other rule one entry is enough.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from engine.errors import ConfigError
from engine.providers.http.json_path import Path, find_all, parse_path, word
from engine.providers.http.source import HttpAnswer, Source, linear, parse_source
from engine.providers.states import Words
from engine.records import VerdictKind
from engine.written_numbers import is_whole

# In the order in which they are asked.
RULED: tuple[VerdictKind, ...] = ("accepted", "throttled", "temporary", "permanent")
_CODE_CHARACTERS_MAX = 64
# Statuses about the account, not about the message.
_OF_THE_ACCOUNT = (401, 402, 407)
# Statuses that are about the message even when the answer has no code.
_OF_THE_MESSAGE = (400, 409, 422)


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """Conditions on an answer; all that are given must hold."""

    # HTTP statuses, e.g. [200, "5xx"].
    status: list[int | str] = []
    # Words that `AnswerTable.code` finds, e.g. ["0", "30*"].
    code: list[int | str] = []
    # Words by JSON path.
    json: dict[str, list[int | str | bool] | int | str | bool] = {}
    # A regular expression that is found in the body.
    text: str = ""


class AnswerTable(msgspec.Struct, frozen=True, kw_only=True):
    """`providers.NAME.answer`. Sources are those of `source`."""

    # Source of the provider's id; several values are one for each segment.
    id: str = ""
    id_required: bool = True
    # Source of the provider's code; without one the code is the HTTP status.
    code: str = ""
    accepted: tuple[Condition, ...] = ()
    throttled: tuple[Condition, ...] = ()
    temporary: tuple[Condition, ...] = ()
    permanent: tuple[Condition, ...] = ()
    # What a 2xx means whose code no rule names.
    otherwise: Literal["permanent", "temporary", "throttled", "unknown"] = "permanent"


class Recognised(NamedTuple):
    """What an answer means for its message."""

    kind: VerdictKind
    # As `Verdict.provider_message_id`.
    id: str
    code: str
    # A refusal that is not in the provider's own words.
    foreign: bool = False


class Recognition:
    """Recognises answers by one description.

    Raises ConfigError naming the setting; `where` is the name of the table.
    """

    def __init__(self, table: AnswerTable, where: str) -> None:
        self._id = parse_source(table.id, f"{where}.id")
        self._id_required = table.id_required and self._id.kind not in ("", "own")
        self._code = parse_source(table.code, f"{where}.code")
        if self._code.is_own:
            raise ConfigError(f"{where}.code must be in the answer: 'own' is for the id.")
        self._otherwise: VerdictKind = table.otherwise
        self._rules = [
            (kind, _Rule(condition, self._code, all_of_them=kind == "accepted", where=f"{where}.{kind}"))
            for kind in RULED
            for condition in getattr(table, kind)
        ]
        self._accepts_by_rule = bool(table.accepted)
        self._speaks_json = any(source.kind == "json" for source in (self._id, self._code)) or any(
            condition.json for kind in RULED for condition in getattr(table, kind)
        )

    @property
    def headers(self) -> frozenset[bytes]:
        """Names of the headers that must be kept of an answer, in lower case."""
        return frozenset(s.header for s in (self._id, self._code) if s.kind == "header")

    def recognise(self, status: int, headers: dict[bytes, bytes], body: bytes, own_id: str) -> Recognised:
        """What an answer means: its status, its headers (names in lower case) and its body.

        `own_id` is the engine's id of the message that was sent.
        """
        answer = HttpAnswer(status, headers, body)
        codes = self._code.words(answer)
        kind, foreign = self._by_rule(answer, codes), False
        if kind is None:
            if codes and self._code.kind == "text" and answer.is_page:
                codes = []  # what a pattern finds in somebody's page is no code
            kind, foreign = self._without_rule(answer, codes)
        if kind != "accepted":
            return Recognised(kind, "", _code(codes, status), foreign)
        if self._id.is_own:
            return Recognised(kind, own_id, _code(codes, status))
        ids = self._id.words(answer)
        if not ids and self._id_required:
            return Recognised("unknown", "", "no-id")
        joined = ids[0] if len(ids) == 1 else ",".join(one.replace(",", "%2C") for one in ids)
        return Recognised(kind, joined, _code(codes, status))

    def _by_rule(self, answer: HttpAnswer, codes: list[str]) -> VerdictKind | None:
        for kind, rule in self._rules:
            if rule.holds(answer, codes):
                return kind
        return None

    def _without_rule(self, answer: HttpAnswer, codes: list[str]) -> tuple[VerdictKind, bool]:
        """What an answer means that no rule names, and whether it is a refusal in foreign words."""
        status = answer.status
        if not 200 <= status < 300:
            kind = kind_of_status(status)
            own = bool(codes) or (status >= 400 and self._is_in_own_form(answer))
            if kind == "permanent" and not (own and (codes or status in _OF_THE_MESSAGE)):
                return "temporary", True
            return kind, not own
        if not self._accepts_by_rule:
            # Where an id is required, a page is unknown for having none.
            page = not self._id_required and not codes and answer.is_page
            return ("unknown" if page else "accepted"), False
        return (self._otherwise if codes else "unknown"), False

    def _is_in_own_form(self, answer: HttpAnswer) -> bool:
        if self._speaks_json:
            return isinstance(answer.document, dict | list)
        return not answer.is_page and bool(answer.text.strip())


def kind_of_status(status: int) -> VerdictKind:
    """What an HTTP status says, when it is the provider's own."""
    if 200 <= status < 300:
        return "accepted"
    if status == 429:
        return "throttled"
    if status < 400 or status >= 500 or status == 408 or status in _OF_THE_ACCOUNT:
        return "temporary"
    return "permanent"


def _code(codes: list[str], status: int) -> str:
    if len(codes) == 1:
        return codes[0][:_CODE_CHARACTERS_MAX]
    # One for each segment, most often the same.
    return ",".join(dict.fromkeys(codes))[:_CODE_CHARACTERS_MAX] or str(status)


class _Rule:
    """One condition, compiled."""

    def __init__(self, condition: Condition, code: Source, *, all_of_them: bool, where: str) -> None:
        if condition == Condition():
            raise ConfigError(f"{where} must have a condition: status, code, json or text.")
        if condition.code and not code.kind:
            raise ConfigError(f"{where}.code needs {where.rpartition('.')[0]}.code to say where it stands.")
        self._quantifier = all if all_of_them else any
        self._statuses = _statuses(condition.status, f"{where}.status")
        self._codes = Words(condition.code) if condition.code else None
        self._paths: list[tuple[Path, Words]] = [
            (parse_path(path), Words(word(v) for v in _many(value))) for path, value in condition.json.items()
        ]
        self._text = linear(condition.text, f"{where}.text") if condition.text else None

    def holds(self, answer: HttpAnswer, codes: list[str]) -> bool:
        if self._statuses and answer.status not in self._statuses:
            return False
        if self._codes is not None and not self._fits(codes, self._codes):
            return False
        for path, words in self._paths:
            if not self._fits([word(value) for value in find_all(answer.document, path)], words):
                return False
        return self._text is None or self._text.search(answer.text) is not None

    def _fits(self, found: list[str], words: Words) -> bool:
        return bool(found) and self._quantifier(one in words for one in found)


def _many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _statuses(statuses: list[int | str], where: str) -> frozenset[int]:
    found: set[int] = set()
    for status in statuses:
        text = str(status)
        if len(text) == 3 and text[0] in "12345" and text[1:] == "xx":
            found.update(range(int(text[0]) * 100, int(text[0]) * 100 + 100))
        elif len(text) == 3 and is_whole(text):
            found.add(int(text))
        else:
            raise ConfigError(f"{where} must be a list of statuses, e.g. [200, '5xx'], not {status!r}.")
    return frozenset(found)
