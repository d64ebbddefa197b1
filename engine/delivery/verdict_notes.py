"""The border to providers: how they are given messages, and what they have called back.

Providers run their own code in `submit`, and in callbacks and tasks of their own. Ours never runs there: a
callback only notes the verdict. Whoever acts on verdicts takes all that was noted meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from structlog.typing import FilteringBoundLogger

from engine.delivery.lane import Lane
from engine.providers.ports import BatchProvider, Provider, Verdicts
from engine.records import Message, Verdict

SubmitAll = Callable[[Sequence[Message], int, Verdicts], None]


class Accepted(NamedTuple):
    """Messages that a provider accepted with the same code: their tokens, and for each the provider's id of
    it and how long the answer took, microseconds."""

    tokens: list[int]
    ids: list[str]
    latency_us: list[int]
    code: str


# (lane, token, verdict), or (lane, 0, messages that were accepted). Tokens begin with 1.
Note = tuple[Lane, int, Verdict | Accepted]


class VerdictNotes:
    """The verdicts that have been called back and that nobody has acted on, in order."""

    def __init__(self, ring: Callable[[], None]) -> None:
        """`ring` is called for each note."""
        self._notes: list[Note] = []
        self._ring = ring

    def __bool__(self) -> bool:
        return bool(self._notes)

    def take(self) -> list[Note]:
        """Take out what was noted."""
        notes, self._notes = self._notes, []
        return notes

    def ended(self, lane: Lane, token: int, verdict: Verdict) -> None:
        """Note one verdict. It may run inside a provider's code, so it does nothing that can fail."""
        if verdict.kind == "accepted" and not verdict.is_test:
            self.accepted(lane, [token], [verdict.provider_message_id], [verdict.latency_us], verdict.code)
            return
        self._notes.append((lane, token, verdict))
        self._ring()

    def accepted(
        self, lane: Lane, tokens: list[int], ids: list[str], latency_us: list[int], code: str
    ) -> None:
        """Note that the lane's provider accepted these; with those that it accepted just before, they are one
        note."""
        if self._notes:
            last_lane, _, last = self._notes[-1]
            if last_lane is lane and isinstance(last, Accepted) and last.code == code:
                last.tokens.extend(tokens)
                last.ids.extend(ids)
                last.latency_us.extend(latency_us)
                return
        self._notes.append((lane, 0, Accepted(tokens, ids, latency_us, code)))
        self._ring()


class LaneVerdicts:
    """`engine.providers.ports.Verdicts` of one lane."""

    __slots__ = ("accepted", "ended")

    def __init__(self, lane: Lane, notes: VerdictNotes) -> None:
        self.ended: Callable[[int, Verdict], None] = partial(notes.ended, lane)
        self.accepted: Callable[[list[int], list[str], list[int], str], None] = partial(notes.accepted, lane)


def submitting(provider: Provider, log: FilteringBoundLogger) -> SubmitAll:
    """What gives messages to the provider: `BatchProvider.submit_all` where it has that. It never raises:
    what the provider raises ends the attempts as `unknown`."""
    if isinstance(provider, BatchProvider):
        return partial(_together, provider, log)
    return partial(_one_by_one, provider, log)


def _together(
    provider: BatchProvider,
    log: FilteringBoundLogger,
    messages: Sequence[Message],
    first: int,
    verdicts: Verdicts,
) -> None:
    try:
        provider.submit_all(messages, first, verdicts)
    except Exception as e:  # the provider's own, whatever it is: see the module
        log.error("provider failed", provider=provider.name, exc_info=e)
        for token in range(first, first + len(messages)):
            verdicts.ended(token, Verdict(kind="unknown", provider=provider.name, code="fault"))


def _one_by_one(
    provider: Provider, log: FilteringBoundLogger, messages: Sequence[Message], first: int, verdicts: Verdicts
) -> None:
    for token, message in enumerate(messages, first):
        try:
            provider.submit(message, partial(verdicts.ended, token))
        except Exception as e:  # as above
            log.error("provider failed", provider=provider.name, exc_info=e)
            verdicts.ended(token, Verdict(kind="unknown", provider=provider.name, code="fault"))
