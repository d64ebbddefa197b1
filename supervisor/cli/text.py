"""Sentences, numbers and times as all commands print them. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from engine.written_numbers import plural

# A line of an explanation that is longer was broken because it was full.
_FULL = 60
# What begins an entry of a list: a word, and what it means after some spaces.
_ENTRY = re.compile(r"\S+ {2,}\S")
# How the library that reads command lines begins to say that a value is wrong, and goes on.
_WRONG_VALUE = re.compile(r"Invalid value for '([^']+)': (?:Input should be |Value error, |(?=Unable))")
_ALLOWED = {
    r"a valid integer": "a whole number",
    r"Unable to parse input string as an integer": "a whole number of fewer digits",
    r"a valid number": "a number",
    r"a finite number": "a number",
    r"greater than or equal to (\S+?)\.?$": r"\1 or more",
    r"less than or equal to (\S+?)\.?$": r"\1 or less",
    r"'.*' is not one of (.*?)\.?$": r"one of \1",
    r"greater than (\S+?)\.?$": r"more than \1",
    r"less than (\S+?)\.?$": r"less than \1",
}
# What somebody gave is repeated to them this far, characters of it without a space.
_WORD = re.compile(r"(\S{100})\S{100,}(\S{20})")
# Options that are called otherwise than the fields of the API.
_OPTIONS = {"group_by": "--by", "from_time": "--since", "until_time": "--until"}


def flowing(words: str) -> str:
    """An explanation whose lines end where the page does, not where the source does.

    What the author broke because the line was full is one line again; short lines, those that begin an
    entry of a list (a word, and what it means after some spaces), and examples stay as they are."""
    lines: list[str] = []
    for line in words.split("\n"):
        before = lines[-1] if lines else ""
        if (
            len(before.rpartition("\n")[2]) > _FULL
            and line.strip()
            and not line.startswith(("[cyan]smsengine", " "))
            and not _ENTRY.match(line)
        ):
            lines[-1] = f"{before} {line}"
        else:
            lines.append(line)
    return "\n".join(lines)


def number(count: int) -> str:
    """The number with a comma before each group of three digits."""
    return f"{count:,}"


def counted(count: int, noun: str) -> str:
    """ "1 unit", "1,200 units"."""
    return f"{number(count)} {plural(noun, count)}"


def span(ms: int) -> str:
    """A length of time in the unit that fits it: 0, 340 ms, 12 s, 5 min, 3 h, 2 d."""
    if ms < 1000:
        return f"{ms} ms" if ms else "0"
    seconds = ms // 1000
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds // unit} {name}"
    return f"{seconds // 86400} d"


def usage_sentence(
    words: str, arguments: Sequence[str] = (), advice: Callable[[str], str] = lambda stray: ""
) -> str:
    """What is wrong with a command line, as the library that reads it said it of these arguments. Whoever
    types -50 means a number, which the library reads as the option -5, and names so. `advice`: what to do
    about an argument too many, a sentence from its middle on, or ""."""
    below = re.fullmatch(r"No such option: (-[0-9].*)", words)
    if below:
        number_given = next((given for given in arguments if given.startswith(below[1])), below[1])
        return f"A number here must not be below 0, as {number_given} is."
    unexpected = re.fullmatch(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", words, re.DOTALL)
    if unexpected:
        rest = advice(unexpected[1])
        return f"Too many arguments: {unexpected[1]}" + (f"; {rest}" if rest else ".")
    wrong = _WRONG_VALUE.match(words)
    if wrong is None:
        # A command of ours says the rest itself.
        return words.removeprefix("Invalid value: ")
    for pattern, allowed in _ALLOWED.items():
        if found := re.match(pattern, words[wrong.end() :]):
            return f"{wrong[1]} must be {found.expand(allowed)}.".replace("'", "")
    return words


def readable(words: str) -> str:
    """The sentence as a terminal can show it, whatever somebody gave: what moves its cursor or has no picture
    is escaped, and a word of hundreds of characters is shortened."""
    shown = _WORD.sub(r"\1...\2", " ".join(words.split()))
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def command_sentence(words: str, arguments: Sequence[str], names: Mapping[str, str]) -> str:
    """What the API says is wrong, in words of the command line with these arguments: its options in place of
    fields, and `none` where a field would be null. `names`: how the command's help calls each parameter.
    A field that the API says to use is an option that was not given."""
    given = {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}

    def unused(field: re.Match[str]) -> str:
        named = names.get(field[1]) or _OPTIONS.get(field[1])
        return f"use {named}" if named else field[0]

    def option(field: re.Match[str]) -> str:
        named = _OPTIONS.get(field[1]) or names.get(field[1]) or "--" + field[1].replace("_", "-")
        return field[0] if named.startswith("--") and named not in given else named

    return re.sub(
        r", or null(: [^.;,]*)?",
        ", or none",
        re.sub(r"`([a-z_]+)`", option, re.sub(r"\buse `([a-z_]+)`", unused, words)),
    )
