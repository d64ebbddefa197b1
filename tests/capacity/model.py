"""What `engine/capacity/_simulate.pyx` does, in plain Python: slow, and easy to read.

The same arguments give the same counts, to the last message.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, field

ROUND, ANSWER, SLOT, RETRY, SEND, DEATH, BIRTH, FENCE, LOOK, NOTHING = range(10)
MASK = (1 << 64) - 1


@dataclass
class Process:
    queue: int
    taken: int = 0
    hand: deque[int] = field(default_factory=deque)
    running: bool = False
    waiting: list[int] = field(default_factory=list)
    now: list[int] = field(default_factory=list)
    born: float = -1.0
    dead: bool = False
    left: list[int] = field(default_factory=list)


@dataclass
class Side:
    processes: range
    concurrency: int
    ahead: int
    worth: int
    turn: int
    # Organisations in their turn, the next one first.
    ring: deque[int] = field(default_factory=deque)
    wakes: bool = False
    # What fenced workers had in hand.
    left: deque[int] = field(default_factory=deque)
    busy_s: float = 0.0
    held_s: float = 0.0


class Model:
    def __init__(self, **given):
        self.given = given
        self.random = given["seed"] * 2 + 1
        first = given["processes"][0]
        ranges = range(first), range(first, first + given["processes"][1])
        sides = zip(ranges, given["concurrency"], given["ahead"], given["worth"], strict=True)
        self.sides = [Side(r, *sizes, r.start) for r, *sizes in sides]
        self.processes = [Process(queue) for queue in (0, 1) for _ in ranges[queue]]
        self.waiting: dict[int, deque[int]] = {}
        self.heap: list[tuple[float, int, int, int]] = []
        self.pushed = 0
        self.arrived, self.organisation, self.send_at, self.taken_at = [], [], {}, {}
        self.process, self.failed, self.tries = {}, {}, {}
        self.sent: set[int] = set()
        # Messages that are to be sent, or were sent, and have no answer.
        self.under_way: set[int] = set()
        self.sends = 0
        self.tail = self.kept = 0.0

    def uniform(self) -> float:
        x = self.random
        x ^= x >> 12
        x = (x ^ (x << 25)) & MASK
        x ^= x >> 27
        self.random = x
        return (((x * 2685821657736338717) & MASK) >> 11) / 9007199254740992.0

    def push(self, at: float, kind: int, index: int) -> None:
        self.pushed += 1
        heapq.heappush(self.heap, (at, self.pushed, kind, index))

    def enter(self, message: int) -> None:
        organisation = self.organisation[message]
        line = self.waiting.setdefault(organisation, deque())
        if not line:
            self.sides[self.given["queues"][organisation]].ring.append(organisation)
        line.append(message)

    def leave(self, side: Side) -> int:
        organisation = side.ring.popleft()
        line = self.waiting[organisation]
        message = line.popleft()
        if line:
            side.ring.append(organisation)
        return message

    def slot(self, queue: int, now: float) -> tuple[float, float]:
        given = self.given
        at = max(self.tail, now)
        ahead, reach = at - now, given["horizon_s"] / 2
        reserve = queue == 0 and given["share"] > 0 and self.kept <= now + given["horizon_s"]
        if ahead > reach and not (reserve and ahead <= given["horizon_s"]):
            return -1.0, now + ahead - (given["horizon_s"] if reserve else reach) + 1e-7
        if ahead > reach:
            self.kept = max(self.kept, now) + given["segments"] * given["slot_s"] / given["share"]
        self.tail = at + given["segments"] * given["slot_s"]
        return at, 0.0

    def begin_round(self, index: int, now: float) -> None:
        process = self.processes[index]
        lasts = self.given["round_s"][process.queue]
        lasts += self.given["event_s"][process.queue] * len(process.waiting)
        process.now, process.waiting, process.running = process.waiting, [], True
        self.sides[process.queue].busy_s += lasts
        self.push(now + lasts, ROUND, index)

    def room(self, process: Process) -> int:
        side = self.sides[process.queue]
        return side.concurrency + side.ahead - process.taken - len(process.hand)

    def reads(self, process: Process) -> bool:
        side = self.sides[process.queue]
        if process.dead:
            return False
        if self.given["slot_s"]:
            soon = int(process.taken * (self.given["horizon_s"] / 2) / self.given["usual_s"][process.queue])
            return process.taken + len(process.hand) < side.concurrency + soon
        return self.room(process) >= side.worth

    def begin(self, index: int, now: float) -> None:
        process = self.processes[index]
        message = process.hand.popleft()
        self.taken_at[message], self.process[message] = now, index
        self.sent.discard(message)
        self.under_way.add(message)
        process.taken += 1
        process.waiting.append(message)

    def feed_limited(self, index: int, now: float) -> None:
        process = self.processes[index]
        side = self.sides[process.queue]
        while process.hand and process.taken < side.concurrency and self.send_at[process.hand[0]] <= now:
            self.begin(index, now)
        while side.ring and self.reads(process):
            at, again = self.slot(process.queue, now)
            if at < 0:
                if not side.wakes:
                    side.wakes = True
                    self.push(again, SLOT, process.queue)
                break
            message = self.leave(side)
            self.send_at[message] = at
            process.hand.append(message)
            if len(process.hand) == 1 and at <= now and process.taken < side.concurrency:
                self.begin(index, now)
            else:
                self.push(at, SEND, index)

    def feed(self, index: int, now: float) -> None:
        process = self.processes[index]
        side = self.sides[process.queue]
        if self.given["slot_s"]:
            self.feed_limited(index, now)
        else:
            if self.reads(process):
                while side.ring and self.room(process) > 0:
                    process.hand.append(self.leave(side))
            while process.hand and process.taken < side.concurrency:
                self.send_at[process.hand[0]] = now
                self.begin(index, now)
        if process.waiting and not process.running:
            self.begin_round(index, now)

    def feed_idle(self, queue: int, now: float) -> None:
        side, index = self.sides[queue], self.sides[queue].turn
        for _ in side.processes:
            if not side.ring or side.wakes:
                break
            index = index + 1 if index + 1 < side.processes.stop else side.processes.start
            process = self.processes[index]
            if not process.running and self.reads(process):
                self.feed(index, now)
                side.turn = index

    def answer(self, queue: int, message: int) -> float:
        given = self.given
        if given["given"]:
            lasts = given["given"][self.sends % len(given["given"])]
            self.sends += 1
            self.failed[message] = lasts < 0
            return abs(lasts)
        answers = (given["express_answers"], given["normal_answers"])[queue]
        lasts = answers[int(self.uniform() * len(answers))]
        self.failed[message] = given["failed"] > 0 and self.uniform() < given["failed"]
        return lasts

    def end_round(self, index: int, now: float) -> None:
        process = self.processes[index]
        for message in process.now:
            if message not in self.sent:
                self.sent.add(message)
                at = max(self.send_at[message], now)
                self.push(at + self.answer(process.queue, message), ANSWER, message)
            else:
                self.answered(message, now)
        process.running = False
        self.feed(index, now)

    def answered(self, message: int, now: float) -> None:
        process, given = self.processes[self.process[message]], self.given
        process.taken -= 1
        self.under_way.discard(message)
        self.sides[process.queue].held_s += now - self.taken_at[message]
        if self.failed[message]:
            tries = self.tries.get(message, 0)
            self.tries[message] = tries + 1
            backoff = given["backoff_s"][process.queue] * (1 << min(tries, 6))
            self.push(now + backoff * (0.5 + self.uniform() / 2), RETRY, message)
        elif self.arrived[message] >= given["counted_from"]:
            inner = given["inner"]
            latency = now - self.arrived[message] + inner[int(self.uniform() * len(inner))]
            bins = (given["express_bins"], given["normal_bins"])[process.queue]
            place = int(math.log(latency / 1e-6) * (1 / math.log(1.01))) + 1 if latency > 1e-6 else 0
            bins[min(place, len(bins) - 1)] += 1

    def die(self, index: int, now: float) -> None:
        process = self.processes[index]
        if process.dead:
            return
        mine = {message for message in self.under_way if self.process[message] == index}
        for message in mine:
            self.sides[process.queue].held_s += now - self.taken_at[message]
        self.under_way -= mine
        process.left = sorted(mine | set(process.hand))
        gone = {(ANSWER, message) for message in mine} | {(ROUND, index)}
        self.heap = [
            (at, number, NOTHING if (kind, what) in gone else kind, what)
            for at, number, kind, what in self.heap
        ]
        process.hand.clear()
        process.waiting, process.taken, process.running, process.dead = [], 0, False, True
        replaced_s, fenced_s, _, _ = self.given["recovery_s"]
        self.push(now + replaced_s, BIRTH, index)
        self.push(now + fenced_s, FENCE, index)

    def fence(self, index: int, now: float) -> None:
        process = self.processes[index]
        side, look_s = self.sides[process.queue], self.given["recovery_s"][2]
        if not process.left:
            return
        side.left.extend(process.left)
        process.left = []
        for other in side.processes:
            born = self.processes[other].born
            if not self.processes[other].dead:
                known = born + look_s * (math.floor((now - born) / look_s) + 1)
                self.push(now + look_s * self.uniform() if born < 0 else known, LOOK, other)

    def look(self, index: int, now: float) -> None:
        process = self.processes[index]
        side, limited = self.sides[process.queue], bool(self.given["slot_s"])
        if process.dead or not side.left:
            return
        room = len(side.left) if limited else self.room(process) + side.concurrency
        for _ in range(min(room, len(side.left))):
            message = side.left.popleft()
            if limited:
                self.enter(message)
            else:
                process.hand.append(message)
        if side.left:
            self.push(now + self.given["recovery_s"][3], LOOK, index)
        if not process.running:
            self.feed(index, now)

    def run(self) -> tuple[float, tuple[float, float], tuple[float, float]]:
        given, now = self.given, 0.0
        for at, index in given["deaths"]:
            self.push(at, DEATH, index)
        bursts = deque(
            zip(given["burst_times"], given["burst_organisations"], given["burst_sizes"], strict=True)
        )
        while bursts or self.heap:
            if bursts and (not self.heap or bursts[0][0] <= self.heap[0][0]):
                now, organisation, size = bursts.popleft()
                for _ in range(size):
                    self.arrived.append(now)
                    self.organisation.append(organisation)
                    self.enter(len(self.arrived) - 1)
                self.feed_idle(given["queues"][organisation], now)
                continue
            now, _, kind, index = heapq.heappop(self.heap)
            if kind == ANSWER:
                place = self.process[index]
                self.processes[place].waiting.append(index)
                if not self.processes[place].running:
                    self.begin_round(place, now)
            elif kind == ROUND:
                self.end_round(index, now)
            elif kind == SLOT:
                self.sides[index].wakes = False
                self.feed_idle(index, now)
            elif kind == SEND:
                if not self.processes[index].running:
                    self.feed(index, now)
            elif kind == DEATH:
                self.die(index, now)
            elif kind == BIRTH:
                self.processes[index].dead, self.processes[index].born = False, now
                self.look(index, now)
                self.feed_idle(self.processes[index].queue, now)
            elif kind == FENCE:
                self.fence(index, now)
            elif kind == LOOK:
                self.look(index, now)
            elif kind == RETRY:
                self.enter(index)
                self.feed_idle(given["queues"][self.organisation[index]], now)
        busy, held = ([getattr(s, name) for s in self.sides] for name in ("busy_s", "held_s"))
        return now, (busy[0], busy[1]), (held[0], held[1])
