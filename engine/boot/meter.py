"""What one process shows as metrics, and its flush: once a second it is copied to the process's file.

The parts of a process count in plain records and histograms, and know nothing of metrics. The meter knows
where each of them is shown (`engine.metrics.catalogue`), reads them all in one go, and writes one snapshot
(`engine.boot.metric_files`).

Killed here: what was counted since the last flush is lost, a second at most. Frozen: the file stays as it is.
The disk is full or cannot be written: a line in the log, once; the process then shows only itself.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger

from engine.boot.metric_files import Counted, CountsFile, add_up, read_all
from engine.clocks.waits import until_tick_s
from engine.histogram import ROUND_TRIP_S, Histogram
from engine.hosts.cpu_waits import times_ns
from engine.hosts.disk_calls import ANSWER_S, within
from engine.metrics.catalogue import METRICS, RECORDS
from engine.metrics.snapshot import Counts, Numbers, Snapshot, Totals, key_of

FLUSH_S = 1.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class _Record(NamedTuple):
    """A record of whole numbers, and where each of them is shown: (field, metric, key)."""

    counters: msgspec.Struct
    places: list[tuple[str, str, str]]


class Meter:
    """Of one process; made in it, before its parts."""

    def __init__(self, role: str, name: str, directory: Path | None, log: FilteringBoundLogger) -> None:
        """`name` is the process's, never used again. `directory`: of the files of all processes of the node;
        None: this process shows only itself. It adds up what dead processes have left there.
        """
        self._role = role
        self._name = name
        self._directory = directory
        self._log = log
        title = str(structlog.contextvars.get_contextvars().get("process", role))
        # Labels that every record of this process may have.
        self._labels = {"role": role, "queue": role, "process": title}
        self._records: list[_Record] = []
        self._numbers: list[tuple[str, str, Callable[[], float]]] = []
        self._tallies: list[
            tuple[str, Mapping[str, str], Mapping[tuple[str, ...], int], tuple[str, ...]]
        ] = []
        self._histograms: list[tuple[str, str, Histogram]] = []
        self._gauges: list[Callable[[], None]] = []
        self._shown: Numbers = {}
        self._file: CountsFile | None = None
        self._fails = False
        self._began_s = time.time()
        # How late timers come. Besides the meter itself `engine.boot.loop_lag` adds to it.
        self.lag = Histogram(ROUND_TRIP_S)
        self.histogram("smsengine_process_loop_lag_seconds", self.lag)
        self.number("smsengine_process_cpu_seconds", _cpu_s)
        self.number("smsengine_process_busy_seconds", _busy_s)
        self.gauges(self._show_process)

    # What is shown.

    def watch(self, event: str, counters: msgspec.Struct, **labels: str) -> None:
        """Show a record of whole numbers that only grow, as the catalogue says for `event`.

        Raises KeyError for an event or a field that the catalogue does not have.
        """
        places = []
        for field in counters.__struct_fields__:
            place = RECORDS[event][field]
            if place is not None:
                places.append((field, place.metric, self._key(place.metric, labels | place.labels)))
        self._records.append(_Record(counters, places))

    def number(self, metric: str, read: Callable[[], float], **labels: str) -> None:
        """Show a counter that `read` gives."""
        self._numbers.append((metric, self._key(metric, labels), read))

    def tally(
        self, metric: str, counts: Mapping[tuple[str, ...], int], by: tuple[str, ...], **labels: str
    ) -> None:
        """Show counts that are kept by the values of the labels `by`."""
        self._tallies.append((metric, labels, counts, by))

    def histogram(self, metric: str, histogram: Histogram, **labels: str) -> None:
        """Show a histogram. Its bounds must be those of the catalogue."""
        assert METRICS[metric].bounds_s == histogram.bounds_s, metric
        self._histograms.append((metric, self._key(metric, labels), histogram))

    def gauges(self, show: Callable[[], None]) -> None:
        """Call `show` before each snapshot; it calls `gauge` for each number that there is then."""
        self._gauges.append(show)

    def gauge(self, metric: str, number: float, **labels: str) -> None:
        """Show `number` in the snapshot that is being made."""
        self._shown.setdefault(metric, {})[self._key(metric, labels)] = number

    # Its flush.

    async def run(self) -> None:
        """Flush once a second until canceled. Call `close` afterwards."""
        self._open()
        while True:
            left_s = until_tick_s(FLUSH_S)
            due_s = time.monotonic() + left_s
            await asyncio.sleep(left_s)
            self.lag.add(max(0.0, time.monotonic() - due_s))
            self.flush()

    def flush(self) -> Snapshot:
        """Copy what was counted to the file; the copy."""
        snapshot = self.snapshot()
        if self._file is not None:
            try:
                self._file.write(snapshot)
                self._fails = False
            except OSError as e:
                if not self._fails:
                    self._log.warning("metrics cannot be written", reason=e.strerror)
                self._fails = True
        return snapshot

    def close(self) -> None:
        """Flush for the last time, and leave the file to be added up."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def snapshot(self) -> Snapshot:
        """What this process shows now."""
        counts = Counts()
        for counters, places in self._records:
            for field, metric, key in places:
                _add(counts.counters, metric, key, getattr(counters, field))
        for metric, key, read in self._numbers:
            _add(counts.counters, metric, key, read())
        for metric, labels, tally, by in self._tallies:
            for values, count in list(tally.items()):
                _add(
                    counts.counters,
                    metric,
                    self._key(metric, {**labels, **dict(zip(by, values, strict=True))}),
                    count,
                )
        for metric, key, histogram in self._histograms:
            numbers = [*histogram.counts, histogram.sum_s]
            series = counts.histograms.setdefault(metric, {})
            before = series.get(key)
            series[key] = numbers if before is None else [*map(sum, zip(before, numbers, strict=True))]
            counts.bounds_s[metric] = histogram.bounds_s
        self._shown = {}
        for show in self._gauges:
            show()
        return Snapshot(role=self._role, counts=counts, gauges=self._shown)

    async def read_all(self) -> Counted:
        """What all processes of the node have counted, this one up to now. Raises OSError."""
        own = self.flush()
        if self._file is None or self._directory is None:
            return Counted(Totals(), {self._name: own}, {self._name})
        return await asyncio.to_thread(read_all, self._directory)

    def _open(self) -> None:
        if self._directory is None:
            return
        try:
            self._file = within(ANSWER_S, partial(_counts_file, self._directory, self._name))
        except OSError as e:
            self._log.warning("metrics of this process are not kept", reason=e.strerror)

    def _key(self, metric: str, labels: Mapping[str, str]) -> str:
        return key_of(METRICS[metric], {**self._labels, **labels})

    def _show_process(self) -> None:
        self.gauge("smsengine_process_resident_memory_bytes", _resident_bytes())
        self.gauge("smsengine_process_start_time_seconds", self._began_s)
        self.gauge("smsengine_processes", 1)


def _add(numbers: Numbers, metric: str, key: str, number: float) -> None:
    series = numbers.setdefault(metric, {})
    series[key] = series.get(key, 0) + number


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _busy_s() -> float:
    """Time in which the thread of the loop was on a CPU or waited for one, seconds; without the wait where
    the kernel does not tell."""
    times = times_ns()
    return time.thread_time() if times is None else sum(times) / 1e9


def _resident_bytes() -> int:
    """proc(5), statm: the second number is the resident pages."""
    return int(_own("statm").split()[1]) * _PAGE_BYTES


def _own(file: str) -> bytes:
    """A short file of this process in /proc. Each process reads two a second, so by three system calls and
    not by the nine of `Path.read_text`."""
    fd = os.open(f"/proc/self/{file}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 256)
    finally:
        os.close(fd)


def _counts_file(directory: Path, name: str) -> CountsFile:
    """The file of a process that starts. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    add_up(directory)
    return CountsFile(directory, name)
