"""Where in a provider's answer a value stands, as the description says it in one word:

json:PATH     in the JSON body, see `json_path`
text:REGEX    in the body as text: what the first group matches, without a group the whole
header:NAME   in a header of the answer
own           nowhere: the engine's own id of the message, which the provider gives back
              in its receipts

Regular expressions are matched against the first TEXT_CHARACTERS_MAX characters and kept
to a form that cannot take long on any text (`linear`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from engine.errors import ConfigError
from engine.providers.http.json_path import Path, find, find_all, parse_path, word
from engine.providers.http.json_text import Malformed, parse_json
from engine.providers.http.tables import shown

TEXT_CHARACTERS_MAX = 500
PATTERN_CHARACTERS_MAX = 200
REPEATS_MAX = 2
OPTIONALS_MAX = 3

# A longer value is no id or code, but a page of some kind.
WORD_CHARACTERS_MAX = 256


class HttpAnswer:
    """One answer, each of its forms made when first asked for."""

    __slots__ = ("_document", "_text", "body", "headers", "status")

    def __init__(self, status: int, headers: dict[bytes, bytes], body: bytes) -> None:
        self.status = status
        self.headers = headers
        # As it came.
        self.body = body
        self._document: Any = _UNREAD
        self._text: str | None = None

    @property
    def document(self) -> Any:
        """The body as JSON; None when it is none."""
        if self._document is _UNREAD:
            try:
                self._document = parse_json(self.body)
            except Malformed:
                self._document = None
        return self._document

    @property
    def text(self) -> str:
        """The first TEXT_CHARACTERS_MAX characters of the body, read as UTF-8; bytes that are none are
        replaced."""
        if self._text is None:
            # No character takes more than four bytes.
            start = self.body[: 4 * TEXT_CHARACTERS_MAX].decode("utf-8", errors="replace")
            self._text = start[:TEXT_CHARACTERS_MAX]
        return self._text

    @property
    def is_page(self) -> bool:
        """Whether the body begins as a page for people does: HTML. An object behind a warning is none."""
        return _PAGE.match(self.text) is not None and self.document is None


_UNREAD = object()
_PAGE = re.compile(
    r"[\s\ufeff]*(?:<!--|<(?:!doctype\s+html|html|head|title|meta|body|center|div|h1|h2|p|br|b)\b)",
    re.IGNORECASE,
)


class Source(NamedTuple):
    """A place in an answer, compiled from the word that describes it."""

    kind: str
    # The values that stand there in an answer, without the blanks around them, and without those that are
    # empty or longer than a word.
    words: Callable[[HttpAnswer], list[str]]
    header: bytes = b""

    @property
    def is_own(self) -> bool:
        """Whether the value is the engine's own id of the message."""
        return self.kind == "own"


def _kept(found: str) -> list[str]:
    found = found.strip()
    return [found] if 0 < len(found) <= WORD_CHARACTERS_MAX else []


def _in_json(path: Path) -> Callable[[HttpAnswer], list[str]]:
    if "*" in path:
        return lambda answer: [
            kept for value in find_all(answer.document, path) for kept in _kept(word(value))
        ]

    def words(answer: HttpAnswer) -> list[str]:
        value = find(answer.document, path)
        return _kept(value if type(value) is str else word(value))

    return words


def _in_text(pattern: re.Pattern[str]) -> Callable[[HttpAnswer], list[str]]:
    group = 1 if pattern.groups else 0

    def words(answer: HttpAnswer) -> list[str]:
        match = pattern.search(answer.text)
        return _kept(match[group] or "") if match else []

    return words


def _in_header(name: bytes) -> Callable[[HttpAnswer], list[str]]:
    return lambda answer: _kept(answer.headers.get(name, b"").decode("latin-1"))


def parse_source(text: str, where: str) -> Source:
    """Compile the word that describes a source. Raises ConfigError naming `where`."""
    kind, _, rest = text.partition(":")
    if text == "own" or text == "":
        return Source(text, lambda answer: [])
    if kind == "json" and rest:
        return Source("json", _in_json(parse_path(rest)))
    if kind == "text" and rest:
        return Source("text", _in_text(linear(rest, where)))
    if kind == "header" and rest.isascii():
        name = rest.strip().lower().encode()
        return Source("header", _in_header(name), name)
    raise ConfigError(
        f"{where} must be 'json:PATH', 'text:REGEX', 'header:NAME', 'own' or empty, not {shown(text)}."
    )


def linear(pattern: str, where: str) -> re.Pattern[str]:
    """A regular expression that is quick on every text of TEXT_CHARACTERS_MAX characters.

    Python's engine goes back to every point where it could have matched otherwise, so whatever
    multiplies such points is refused: more than a few repeats, a repeated group, and
    references back. Raises ConfigError naming `where`.
    """
    bare = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "x", pattern)
    # Marks of lazy and possessive repeats, and the heads of groups, are no further repeats.
    bare = re.sub(r"([*+?}])[?+]", r"\1", bare.replace("(?", "("))
    simple = (
        len(pattern) <= PATTERN_CHARACTERS_MAX
        and len(re.findall(r"[*+{]", bare)) <= REPEATS_MAX
        and bare.count("?") <= OPTIONALS_MAX
        and not re.search(r"\)[*+{]", bare)
        and not re.search(r"\\[1-9]|\(\?(?:P=|\(|<?[=!])", pattern)
    )
    if not simple:
        raise ConfigError(
            f"{where} must be a regular expression of at most {PATTERN_CHARACTERS_MAX} characters with at "
            f"most {REPEATS_MAX} repeats (* + {{}}), none of them of a group, {OPTIONALS_MAX} optionals (?), "
            f"no references and no look-around, not {shown(pattern)}."
        )
    try:
        return re.compile(pattern)
    except re.error as e:
        raise ConfigError(f"{where} is no regular expression: {e}.") from e
