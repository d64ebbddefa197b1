"""Sends many messages over the API: in batches, a few in flight, none accepted twice.

Each batch has an Idempotency-Key, made of the run's key and the batch's place in the file.
When an answer is lost, or the engine answers 503 or 429, the same batch is sent again with
the same key, so that it is accepted once, however often it is sent. A run that ended early
can be repeated with its key: as long as file and batch size are the same, the engine does not
accept a message again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count, islice

import msgspec

from engine.clocks.backoff import pause_after
from engine.errors import EngineError, Refusal, Unavailable
from engine.records import MessageDraft
from supervisor.cli.client import Client, Problem, decode, json_bytes
from supervisor.cli.message_file import Line
from supervisor.cli.text import counted

# Codes of lines that got none from the engine.
NOT_A_MESSAGE = "not_a_message"
NOT_ANSWERED = "not_answered"
BATCH_MAX = 1000
# Pause before messages that the engine put off are sent again, seconds.
PAUSE_S = 1.0


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a batch's answer: a message accepted, or `error`."""

    id: str = ""
    status: str = ""
    segments: int = 0
    units: int = 0
    error: Problem | None = None


class _Batch(msgspec.Struct, frozen=True, kw_only=True):
    messages: list[MessageDraft]


class _Results(msgspec.Struct, frozen=True, kw_only=True):
    results: list[Item]


@dataclass(frozen=True, kw_only=True, slots=True)
class SendOutcome:
    """What became of one line: accepted when `code` is "", otherwise `code` and `detail` say why not."""

    line: Line
    id: str = ""
    segments: int = 0
    units: int = 0
    code: str = ""
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Delivery:
    outcomes: list[SendOutcome]
    # Why no further batch is begun; None: the run goes on.
    failure: EngineError | None = None


@dataclass(kw_only=True)
class Totals:
    """Sums over the lines of a run."""

    accepted: int = 0
    refused: int = 0
    # Without an answer: only a repetition with the same key can show whether they were accepted.
    unknown: int = 0
    segments: int = 0
    units: int = 0

    def add(self, outcome: SendOutcome) -> None:
        """Count one more line."""
        if not outcome.code:
            self.accepted += 1
            self.segments += outcome.segments
            self.units += outcome.units
        elif outcome.code == NOT_ANSWERED:
            self.unknown += 1
        else:
            self.refused += 1


@dataclass(kw_only=True)
class Sender:
    """One run over a file. `connect` makes a client for each of its threads."""

    connect: Callable[[], Client]
    run_key: str
    batch: int = 500
    in_flight: int = 4
    # Longest time that one batch is repeated, before the run is given up, seconds.
    patience_s: float = 300.0
    _stopped: threading.Event = field(default_factory=threading.Event)
    _own: threading.local = field(default_factory=threading.local)

    def run(self, lines: Iterable[Line]) -> Iterator[list[SendOutcome]]:
        """Send the lines. Yields lists of outcomes in the order of the file, one list for each batch.

        When something ends the run early, no further batch is begun, the outcomes of those
        under way still come, and then it is raised: ConfigError when the file cannot be read any
        further, Refusal when a whole batch is refused (an unknown key), Unavailable after `patience_s`.
        """
        under_way: deque[Future[_Delivery]] = deque()
        batches = enumerate(_batches(iter(lines), self.batch))
        failure: EngineError | None = None
        with ThreadPoolExecutor(self.in_flight, thread_name_prefix="send") as pool:
            try:
                while True:
                    try:
                        self._fill(pool, batches, under_way)
                        if not under_way:
                            break
                        delivery = under_way[0].result()
                    except EngineError as e:
                        failure = e
                        self._stopped.set()
                        continue
                    under_way.popleft()
                    failure = failure or delivery.failure
                    yield delivery.outcomes
            finally:
                # Batches that still wait for a thread are then not begun.
                self._stopped.set()
        if failure is not None:
            raise failure

    def stop(self) -> None:
        """Begin no further batch and repeat none. A signal handler may call it."""
        self._stopped.set()

    def _fill(
        self,
        pool: ThreadPoolExecutor,
        batches: Iterator[tuple[int, list[Line]]],
        under_way: deque[Future[_Delivery]],
    ) -> None:
        """Give batches to the pool, two for each thread, so that none idles while a batch is read."""
        while len(under_way) < 2 * self.in_flight and not self._stopped.is_set():
            following = next(batches, None)
            if following is None:
                return
            number, batch = following
            under_way.append(pool.submit(self._deliver, batch, f"{self.run_key}-{number}"))

    def _deliver(self, lines: list[Line], key: str) -> _Delivery:
        """Send one batch until each line has an outcome. Runs in a thread of the pool."""
        if self._stopped.is_set():
            return _Delivery(outcomes=[])
        outcomes = {line.number: _refused(line, NOT_A_MESSAGE, line.reason) for line in lines}
        pending = [(line, line.draft) for line in lines if line.draft is not None]
        deadline = time.monotonic() + self.patience_s
        failure: EngineError | None = None
        for attempt in count():
            if not pending:
                break
            try:
                # Messages put off were not accepted; with the old key the old answer would come again.
                items = self._post([d for _, d in pending], f"{key}.{attempt}", deadline)
            except EngineError as e:
                code = e.code if isinstance(e, Refusal) else NOT_ANSWERED
                outcomes.update((line.number, _refused(line, code, str(e))) for line, _ in pending)
                failure = e
                self._stopped.set()
                break
            put_off = []
            for (line, draft), item in zip(pending, items, strict=True):
                outcomes[line.number] = _outcome(line, item)
                if item.error is not None and item.error.status in (429, 503):
                    put_off.append((line, draft))
            pending = put_off
            if pending and (time.monotonic() > deadline or self._stopped.wait(PAUSE_S)):
                break
        return _Delivery(outcomes=[outcomes[line.number] for line in lines], failure=failure)

    def _post(self, drafts: list[MessageDraft], key: str, deadline: float) -> list[Item]:
        """Send one batch, again with the same key until an answer comes. Returns an item for each draft.

        A batch that is too large (413) is sent as two halves; a message that is so by itself is refused
        alone. Raises Refusal, or Unavailable after `deadline`, on the monotonic clock, in seconds.
        """
        body = json_bytes(_Batch(messages=drafts))
        for tries in count():
            try:
                reply = self._client().call("POST", "/v1/messages/batch", body, key)
            except Unavailable as e:
                pause = min(max(e.retry_after, pause_after(tries + 1, 0.05, 30.0)), 30.0)
                if time.monotonic() + pause > deadline or self._stopped.wait(pause):
                    raise
                continue
            except Refusal as e:
                if e.status != 413:
                    raise
                if len(drafts) == 1:
                    return [Item(error=Problem(code=e.code, status=e.status, detail=e.detail))]
                half = len(drafts) // 2
                first = self._post(drafts[:half], key + "a", deadline)
                return first + self._post(drafts[half:], key + "b", deadline)
            items = decode(reply.body, _Results).results
            if len(items) != len(drafts):
                of = f"{counted(len(items), 'result')} for {counted(len(drafts), 'message')}"
                raise Unavailable(f"The engine answered {of}.")
            return items
        raise AssertionError("count() does not end")

    def _client(self) -> Client:
        if not hasattr(self._own, "client"):
            self._own.client = self.connect()
        client: Client = self._own.client
        return client


def _batches(lines: Iterator[Line], size: int) -> Iterator[list[Line]]:
    while batch := list(islice(lines, size)):
        yield batch


def _outcome(line: Line, item: Item) -> SendOutcome:
    if item.error is not None:
        detail = item.error.detail or item.error.title
        return _refused(line, item.error.code or str(item.error.status), detail)
    return SendOutcome(line=line, id=item.id, segments=item.segments, units=item.units)


def _refused(line: Line, code: str, detail: str) -> SendOutcome:
    return SendOutcome(line=line, code=code, detail=detail)
