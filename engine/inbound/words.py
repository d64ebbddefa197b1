"""Rule: whether a text is one of the words STOP, START and HELP, and which keyword it begins with."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import NamedTuple

from engine.inbound.records import Action
from engine.inbound.settings import Words

# What people and phones put around a word.
_AROUND = " \t\r\n\0.,;:!?\"'()[]<>*-_\u2019\u201c\u201d"

# Categories of characters that nobody sees by themselves: of format, and frames around others.
_UNSEEN = ("Cf", "Me")


class Found(NamedTuple):
    """What a text asks for."""

    action: Action
    # What stands behind the word: "STOP ACME" is about ACME. "" for nothing.
    about: str
    # That have the word, in order.
    languages: tuple[str, ...] = ()


_NOTHING = Found("", "")


class WordList:
    """The words of all languages.

    A text counts when it is a word, or a word and one more: `STOP`, `Stop.`, `STOP ACME`. A sentence in which
    one of them stands does not: "Please do not stop" asks for nothing. So no word may be one that people
    write alone and mean otherwise.
    """

    def __init__(self, by_language: Mapping[str, Words]) -> None:
        self._actions: dict[str, Action] = {}
        for words in by_language.values():
            for text in words.help:
                self._actions.setdefault(normal(text), "help")
            for text in words.start:
                self._actions[normal(text)] = "start"
        for words in by_language.values():
            # Where a word is in two lists, the sender who wants no messages is heeded.
            for text in words.stop:
                self._actions[normal(text)] = "stop"
        self._languages: dict[str, tuple[str, ...]] = {}
        for language, words in by_language.items():
            for word in {normal(text) for text in (*words.stop, *words.start, *words.help)}:
                self._languages[word] = (*self._languages.get(word, ()), language)

    def find(self, text: str) -> Found:
        """What `text` asks for."""
        whole = normal(text)
        for alone in (whole, _bare(whole)):
            if (action := self._actions.get(alone)) is not None:
                return Found(action, "", self._languages[alone])
        word, _, about = whole.rpartition(" ")
        word = word if word in self._actions else _bare(word)
        action = self._actions.get(word)
        return _NOTHING if action is None else Found(action, about, self._languages[word])


def normal(text: str) -> str:
    """The text in upper case, in one form of Unicode, with single blanks, and nothing around its words."""
    folded = unicodedata.normalize("NFKC", text[:200]).upper()
    return " ".join(filter(None, (word.strip(_AROUND) for word in folded.split())))


def _bare(whole: str) -> str:
    """Of a text as `normal` makes it the letters and digits: without pictures, marks of writing direction,
    and every sign that stands around a word. Keywords of routes may have such signs; words may not."""
    seen = "".join(
        c for c in whole if unicodedata.category(c) not in _UNSEEN and not "\ufe00" <= c <= "\ufe0f"
    )
    words = (_trimmed(_trimmed(word)[::-1])[::-1] for word in seen.split())
    return " ".join(filter(None, words))


def _trimmed(word: str) -> str:
    """The word from its first letter or digit on."""
    return next((word[at:] for at, c in enumerate(word) if unicodedata.category(c)[0] in "LMN"), "")


def keyword(text: str) -> str:
    """The first word of a text, as a keyword of a route is written; "" when there is none."""
    return normal(text).partition(" ")[0]
