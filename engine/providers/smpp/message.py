"""Rule: from the provider's answers to the segments of a message to the verdict on the message.

A message is sent as one submit_sm for each segment. The first line of the table that holds counts:

    of its segments                              verdict      code
    one was refused for good                     permanent    that answer's status
    one went out and has no answer               unknown      timeout, closed, reset, ...
    one was refused for now                      temporary    that answer's status
    one was never sent, no session               temporary    not_bound, stopped
    one was refused as too much, its time over   throttled    that answer's status
    one was never sent, no room in time          throttled    window
    all were accepted                            accepted     0x00000000

Once a segment has failed in one of these ways, no other segment is sent. The verdict follows when
those in flight are answered or late. Segments that were accepted before cannot be taken back:
when the message is sent again, they are sent again too, under the same reference.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engine.providers.ports import Done, Verdicts
from engine.providers.smpp.verdicts import code
from engine.records import Verdict, VerdictKind

# Which failure counts more, in the order of the table above.
_WEIGHT: dict[VerdictKind, int] = {
    "accepted": 0,
    "throttled": 2,
    "temporary": 3,
    "unknown": 4,
    "permanent": 5,
}
ACCEPTED_CODE = code(0)


class OneVerdict:
    """`engine.providers.ports.Verdicts` of a message that was submitted alone."""

    __slots__ = ("_done", "_provider")

    def __init__(self, done: Done, provider: str) -> None:
        self._done = done
        self._provider = provider

    def ended(self, token: int, verdict: Verdict) -> None:
        """Pass it on."""
        self._done(verdict)

    def accepted(self, tokens: list[int], ids: list[str], latency_us: list[int], code: str) -> None:
        """Pass it on as a verdict."""
        self._done(
            Verdict(
                kind="accepted", provider=self._provider, provider_message_id=ids[0], code=code,
                latency_us=latency_us[0],
            )
        )  # fmt: skip


class Sending(msgspec.Struct, eq=False, gc=False):
    """A message on its way, from `submit` to its verdict. Times are monotonic seconds.

    Most messages have one segment and are accepted at once. They go a shorter way: the caller sets
    `sent_s` instead of calling `take`, and gives their verdict instead of calling `accepted` (`_short_way`).
    When anything else happens to such a message, the methods below work as for any other.
    """

    # Where its verdict goes, and by which token.
    verdicts: Verdicts
    token: int
    # One submit_sm body for each segment.
    bodies: Sequence[bytes]
    # When it was submitted.
    begun_s: float
    # There is one body.
    single: bool
    # A segment can be sent: there is one left, and nothing has failed.
    wants: bool = True
    # It waits in a queue for its next segment.
    queued: bool = True
    # When the first segment went out, 0 before.
    sent_s: float = 0.0
    # The first segment that was never sent, and those to be sent again.
    next: int = 0
    again: list[int] | None = None
    # Segments sent and not answered.
    in_flight: int = 0
    kind: VerdictKind = "accepted"
    code: str = ACCEPTED_CODE
    # The provider's id of each segment that was accepted.
    ids: dict[int, str] | None = None
    throttled_code: str = ""
    # The verdict is out; it may still stand in a queue.
    verdict_given: bool = False

    @property
    def over(self) -> bool:
        """Whether the verdict can be given."""
        return not self.in_flight and not self.wants

    def take(self, now_s: float) -> int:
        """The number of the segment to send now, from 0. Call it only while it `wants` to send."""
        if not self.sent_s:
            self.sent_s = now_s
        self.in_flight += 1
        if self.again:
            part = self.again.pop(0)
        else:
            part = self.next
            self.next = part + 1
        self.wants = self.next < len(self.bodies) or bool(self.again)
        return part

    def give_back(self, part: int) -> None:
        """The segment that was taken was not sent after all."""
        self._landed()
        self._send_again(part)

    def accepted(self, part: int, message_id: str) -> None:
        """The provider took segment `part` under this id, which has no commas."""
        self.in_flight -= 1
        if self.ids is None:
            self.ids = {}
        self.ids[part] = message_id

    def throttled(self, part: int, code: str) -> None:
        """The provider did not take segment `part`, only because it was sent too much; it goes out again."""
        self._landed()
        self.throttled_code = code
        self._send_again(part)

    def failed(self, kind: VerdictKind, code: str) -> None:
        """A segment in flight was not accepted: see the table of the module."""
        self._landed()
        self._worsen(kind, code)

    def give_up(self, code: str) -> None:
        """Send no further segment; `code` says why."""
        if self.wants:
            if self.throttled_code or code == "window":
                self._worsen("throttled", self.throttled_code or code)
            else:
                self._worsen("temporary", code)

    def verdict(self, provider: str, now_s: float) -> Verdict:
        """The verdict on the message. Call it once it is `over`."""
        ids = ""
        if self.kind == "accepted" and self.ids is not None:
            ids = ",".join([self.ids[part] for part in sorted(self.ids)])
            if not any(self.ids.values()):
                ids = ""  # the provider gives none, so the receipts can only have ours
        return Verdict(
            kind=self.kind,
            provider=provider,
            provider_message_id=ids,
            code=self.code,
            latency_us=int((now_s - self.sent_s) * 1e6) if self.sent_s else 0,
        )

    def _landed(self) -> None:
        """One segment less is in flight."""
        if self.in_flight:
            self.in_flight -= 1
        else:
            # It was sent the shorter way: see the class.
            self.next = 1
            self.wants = self.queued = False

    def _worsen(self, kind: VerdictKind, code: str) -> None:
        if _WEIGHT[kind] > _WEIGHT[self.kind]:
            self.kind, self.code, self.wants = kind, code, False

    def _send_again(self, part: int) -> None:
        if self.again is None:
            self.again = []
        self.again.append(part)
        self.wants = self.kind == "accepted"
