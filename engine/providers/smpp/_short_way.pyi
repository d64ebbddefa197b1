from collections import deque
from collections.abc import Mapping, Sequence

from engine.providers.ports import Verdicts
from engine.providers.smpp.message import Sending
from engine.providers.smpp.session import Answers, Segment, Token
from engine.records import Message

def add_bodies(
    found: list[Sequence[bytes] | ValueError],
    messages: Sequence[Message],
    octets: bytes,
    senders: Mapping[str, bytes],
    middles: Mapping[int, bytes],
    from_us: int,
    parameters: bytes,
) -> None:
    """Append to `found` the bodies of those of `messages` that follow, up to one that goes the long way.

    `found` has those of the first so many. `octets`: of each character up to U+00FF what it is in a text,
    0 for one that goes the long way. `senders`: what stands before the recipient's digits, by sender.
    `middles`: what stands behind them, by the end of the message in whole seconds from `from_us`,
    microseconds. `parameters`: what stands behind the text.
    """

def add_sendings(
    begun: list[Sending],
    found: list[Sequence[bytes] | ValueError],
    at: int,
    verdicts: Verdicts,
    first: int,
    now_s: float,
) -> int:
    """Append what is to be sent of `found` from `at` on, up to one that did not go the short way; returns
    where that is. `first`: the token of the first of all."""

def take_singles(messages: deque[Sending], most: int, now_s: float, segments: list[Segment[Sending]]) -> int:
    """Take out up to `most` of the first of `messages`, up to one that has several segments or was sent
    before, and append their only segments, sent at `now_s`; how many."""

def pack_submits(
    segments: Sequence[Segment[Token]], pending: dict[int, Segment[Token]], sequence: int
) -> tuple[bytes, int]:
    """The submit_sm of all, and the last sequence number. `sequence`: the last that was given before. Each is
    noted in `pending` by its own."""

def take_answers(chunk: bytes, at: int, pending: dict[int, Segment[Token]], answers: Answers[Token]) -> int:
    """Take out of `pending` what is answered from `at` on, up to the first octets that are no whole
    submit_sm_resp to one of these, and append it to `answers`; returns where those are."""

def accepted_run(
    answers: Answers[Sending], at: int, now_s: float
) -> tuple[int, Verdicts | None, list[int], list[str], list[int]]:
    """The answers from `at` on, up to the first that is no acceptance of a single with a plain id, or that
    has other `Verdicts`: (where that is, the Verdicts of all, their tokens, ids, and how long they took until
    `now_s`, microseconds)."""
