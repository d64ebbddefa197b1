"""No sentence of the product says "1 workers"."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_NOUNS = (
    "messages|workers|processes|units|segments|numbers|rows|lines|entries|batches|shards|nodes|keys|"
    "organisations|seconds|minutes|hours|days|octets|bytes|characters|digits|attempts|events|endpoints|"
    "sessions|connections|requests|replies|routes|prices|files|parts|times|queues|providers|deliveries|"
    "receipts|fields|sends|slots|cores|results|sockets|outcomes|accounts"
)
# What is put into a sentence right before a noun of several.
_COUNTED = re.compile(rf"(?<!\$)\{{([^{{}}]+)\}} (?:more )?({_NOUNS})\b")
_COUNTED_JS = re.compile(rf"\$\{{([^{{}}]+)\}} (?:more )?({_NOUNS})\b")
# Bounds, which are never 1: constants, and what is named so.
_BOUND = re.compile(r"(?:\w+\.)*_?[A-Z][A-Z0-9_]*(?: - 1)?(?::.*)?|DAYS|\w+_max|longest|size - 1")
# What is never 1 there, or no count.
_NEVER_ONE = {
    # Beyond a bound of four.
    ("engine/api/auto_replies.py", "len(text)"),
    ("engine/api/auto_replies.py", "segments"),
    ("engine/intake/addressing.py", "len(text)"),
    ("engine/providers/smpp/submit.py", "len(texts)"),
    # One day is "a day".
    ("engine/api/reports.py", "days:,"),
    # Rates and factors, with a decimal.
    ("engine/capacity/plan.py", "wanted:,.0f"),
    ("engine/capacity/plan.py", "used:.1f"),
    ("engine/capacity/response_times.py", "factor:g"),
    ("supervisor/cli/queue.py", "rate"),
    # Words, not numbers.
    ("engine/credit/laws.py", "off"),
    ("engine/intake/phone_numbers.py", "allowed"),
    ("supervisor/cli/show.py", "queue"),
    # Two at least, or there would not be two for the same.
    ("supervisor/process/systemd.py", "count"),
}


def test_a_count_before_a_noun_goes_through_the_helper() -> None:
    wrong, seen = [], set()
    for place, suffix, counted in (
        ("engine", ".py", _COUNTED),
        ("supervisor", ".py", _COUNTED),
        ("engine/console/static", ".js", _COUNTED_JS),
    ):
        for path in sorted((ROOT / place).rglob(f"*{suffix}")):
            name = path.relative_to(ROOT).as_posix()
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                for what, noun in counted.findall(line):
                    if (name, what) in _NEVER_ONE:
                        seen.add((name, what))
                    elif not _BOUND.fullmatch(what):
                        wrong.append(f'{name}:{number} says "1 {noun}" when `{what}` is 1: use `plural`.')
    assert not wrong, "\n" + "\n".join(wrong)
    assert seen == _NEVER_ONE
