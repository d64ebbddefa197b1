"""Which segment goes out on which session, and what waits meanwhile.

A message's segments go out on one session, in order, as its window and its slowdown allow.
A message that finds no room on any session waits, first come first served; the sessions take
waiting messages by even shares. A segment moves to another session only when its session is lost
before it was sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from engine.providers.smpp._short_way import take_singles
from engine.providers.smpp.connection import Line, Segments
from engine.providers.smpp.message import Sending


class Waiting:
    """Messages with a segment to send, and the sessions of one provider."""

    def __init__(self) -> None:
        # All sessions; and those that carry messages now.
        self.lines: list[Line] = []
        self.open: list[Line] = []
        # Messages that wait for any session, oldest first.
        self.messages: deque[Sending] = deque()
        self._turn = 0

    @property
    def busy(self) -> bool:
        """Whether there are messages that wait or are not answered."""
        return bool(self.messages) or any(line.busy for line in self.lines)

    def open_for(self, line: Line) -> None:
        """The session carries messages from now on."""
        self.open.append(line)

    def close_for(self, line: Line, unsent: Segments) -> None:
        """The session carries no more messages: those it has not sent go to the head of those that wait."""
        if line in self.open:
            self.open.remove(line)
        for sending, part, _ in unsent:
            sending.give_back(part)
            self._queue(sending, line.queue)
        for sending in [*reversed(line.later), *reversed(line.queue)]:
            self.messages.appendleft(sending)
        line.queue.clear()
        line.later.clear()

    def put_off(self, line: Line, sending: Sending) -> None:
        """The next segment of this message waits for the next tick, on the same session."""
        if sending in line.queue:
            line.queue.remove(sending)
            sending.queued = False
        self._queue(sending, line.later)

    def tick(self) -> None:
        """Let what was put off wait in its line's queue again."""
        for line in self.lines:
            line.queue.extend(line.later)
            line.later.clear()

    def take_older(self, whole_s: float, in_part_s: float) -> Iterator[Sending]:
        """Take out the messages that were begun at `whole_s` or before; of those with a segment that the
        provider has taken, only the ones begun at `in_part_s` or before."""
        for line in self.lines:
            for sending in [s for s in line.queue if s.begun_s <= (in_part_s if s.ids else whole_s)]:
                line.queue.remove(sending)
                yield sending
        while self.messages:
            first = self.messages[0]
            if first.begun_s > (in_part_s if first.ids else whole_s):
                return
            yield self.messages.popleft()

    def take_all(self) -> Iterator[Sending]:
        """Take out the messages that wait for any session now; those that join meanwhile stay."""
        for _ in range(len(self.messages)):
            yield self.messages.popleft()

    def pump_all(self, now_s: float) -> None:
        """Send what waits, as far as there is room."""
        if not self.open:
            return
        # Another session begins each time. A copy: a session may be lost while it is written to.
        self._turn = (self._turn + 1) % len(self.open)
        lines = self.open[self._turn :] + self.open[: self._turn]
        for left, line in zip(range(len(lines), 0, -1), lines, strict=True):
            self.pump(line, now_s, -(-len(self.messages) // left))
            line.flush()

    def pump(self, line: Line, now_s: float, share: int) -> None:
        """Send messages that wait, as far as this session has room; at most `share` of those that wait for
        any session."""
        room = line.room(now_s)
        if room <= 0:
            return
        queue, messages = line.queue, self.messages
        segments: Segments = []
        while len(segments) < room:
            if queue:
                sending = queue.popleft()
            elif share > 0 and messages:
                # Nearly all messages: as below, by the shorter way (see `Sending`).
                if taken := take_singles(messages, min(share, room - len(segments)), now_s, segments):
                    share -= taken
                    continue
                sending = messages.popleft()
                share -= 1
            else:
                break
            sending.queued = False
            while sending.wants:
                if len(segments) == room:
                    sending.queued = True
                    queue.appendleft(sending)
                    break
                part = sending.take(now_s)
                segments.append((sending, part, sending.bodies[part]))
        line.send(segments)

    def _queue(self, sending: Sending, queue: deque[Sending]) -> None:
        if sending.wants and not sending.queued:
            sending.queued = True
            queue.append(sending)
