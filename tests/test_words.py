"""The words of docs/vocabulary.md are the words of the project."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VOCABULARY = ROOT / "docs" / "vocabulary.md"
# Where the product speaks. Files of SQL are never changed once they are released.
PLACES = ("engine", "supervisor", "benchmarks", "examples", "docs", "README.md", "CONTRIBUTING.md")
SUFFIXES = {".py", ".pyi", ".pyx", ".lua", ".md", ".toml"}


@cache
def rows() -> list[list[str]]:
    """The rows of all its tables: term, what it is, what is not said."""
    lines = VOCABULARY.read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return [row for row in cells if row[0] != "term"]


@cache
def unsaid() -> dict[str, str]:
    """Word that is not used: the term that is."""
    return {word: row[0] for row in rows() for word in re.findall(r"`(\w+)`", row[2])}


@cache
def no_names() -> frozenset[str]:
    """Words that name nothing, from the section on names."""
    section = VOCABULARY.read_text(encoding="utf-8").partition("## Names")[2]
    return frozenset(re.findall(r"`(\w+)`", section.partition("these are not names:")[2].partition(".")[0]))


def texts() -> Iterator[tuple[Path, str]]:
    for place in PLACES:
        for path in [ROOT / place] if "." in place else sorted((ROOT / place).rglob("*")):
            if path.suffix in SUFFIXES and path != VOCABULARY and "__pycache__" not in path.parts:
                yield path, path.read_text(encoding="utf-8")


def words(text: str) -> set[str]:
    """All words of a line, also those inside of names: `held_units`, `HeldUnits`."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text)}


def names(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Every name in a Python file, with its line."""
    if path.suffix == ".py":
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME:
                yield token.start[0], token.string


def test_the_words_are_read_from_the_page() -> None:
    assert unsaid()["carrier"] == "provider"
    assert "told" in no_names()
    assert words("the HeldUnits of a last_word") == {"the", "held", "units", "of", "a", "last", "word"}


def test_one_word_is_used_for_one_thing() -> None:
    wrong = []
    for path, text in texts():
        # Most files say none of them, and are looked at once.
        for number, line in enumerate(text.splitlines() if words(text) & unsaid().keys() else (), 1):
            for word in words(line) & unsaid().keys():
                wrong.append(
                    f'{path.relative_to(ROOT)}:{number} says "{word}"; the word is "{unsaid()[word]}".'
                )
    assert not wrong, "\n" + "\n".join(wrong)


def test_names_are_nouns_and_verbs_of_the_domain() -> None:
    wrong = []
    for path, text in texts():
        for number, name in names(path, text) if words(text) & no_names() else ():
            for word in words(name) & no_names():
                wrong.append(
                    f'{path.relative_to(ROOT)}:{number}: the name "{name}" says "{word}": say what it is.'
                )
    assert not wrong, "\n" + "\n".join(wrong)


def test_each_term_is_explained_once() -> None:
    terms = [term.strip() for row in rows() for term in row[0].split(",")]
    assert len(terms) > 40
    assert sorted(terms) == sorted(set(terms))
    assert all(row[1] for row in rows())
