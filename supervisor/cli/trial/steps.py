"""What a trial shows, step by step: for people as paragraphs, with --json as one line of JSON for each."""

from __future__ import annotations

import time
from typing import Literal

import msgspec

from supervisor.output import print_exactly

StepKind = Literal[
    "plan", "connected", "failed", "closed", "sent", "received", "understood", "receipt", "problem", "result"
]
_SIGNS: dict[StepKind, str] = {"sent": "-->", "received": "<--"}
_INDENT = " " * 12
# Octets of hex in one line.
_HEX_OCTETS = 32


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step of a trial."""

    # Seconds since the trial began.
    at_s: float
    step: StepKind
    # What was sent or received: the name of a PDU, a request line, a status line.
    what: str = ""
    # For people.
    detail: str = ""
    # By name, in the order of the wire. Secrets are masked.
    fields: dict[str, str] = {}
    # The whole PDU in hex; "" when it holds a secret, or what belongs to other messages.
    hex: str = ""
    # Of an HTTP request or answer.
    body: str = ""


class Steps:
    """Prints steps as they happen."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._begun_s = time.monotonic()
        self._ended = False

    def add(
        self,
        step: StepKind,
        what: str = "",
        detail: str = "",
        *,
        fields: dict[str, str] | None = None,
        octets: bytes = b"",
        body: str = "",
    ) -> None:
        """Print one step, that of now; see `Step`. Nothing is printed after the result."""
        if self._ended:
            return
        self._ended = step == "result"
        at_s = round(time.monotonic() - self._begun_s, 3)
        made = Step(
            at_s=at_s, step=step, what=what, detail=detail, fields=fields or {}, hex=octets.hex(), body=body
        )
        if self._as_json:
            print_exactly(msgspec.json.encode(made).decode())
        else:
            print(_paragraph(made), flush=True)


def _paragraph(step: Step) -> str:
    sign = _SIGNS.get(step.step, step.step)
    lines = [
        f"{step.at_s:8.3f} s  {sign}  {step.what}{'  ' if step.what and step.detail else ''}{step.detail}"
    ]
    width = max(map(len, step.fields), default=0)
    lines += [f"{_INDENT}{name:<{width}}  {value}" for name, value in step.fields.items()]
    lines += [
        f"{_INDENT}{step.hex[at : at + 2 * _HEX_OCTETS]}" for at in range(0, len(step.hex), 2 * _HEX_OCTETS)
    ]
    lines += [f"{_INDENT}| {line}" for line in step.body.splitlines()]
    return "\n".join(lines)
