"""The options of `smsengine plan`, read and checked."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from engine import text_file
from engine.capacity import costs as costs_of
from engine.capacity import peaks, response_times, targets, traffic
from engine.capacity.costs import Costs
from engine.capacity.peaks import Peak
from engine.capacity.plan import CONCURRENCY_MAX, PROCESSES_MAX, Bounds
from engine.capacity.response_times import ResponseTimes
from engine.capacity.simulation import System
from engine.config import Queues
from engine.errors import ConfigError
from engine.records import QUEUES, Queue
from engine.text_file import NotUtf8
from supervisor.cli.options import EngineOptions
from supervisor.cli.text import counted
from supervisor.datadir import DEFAULT


def system(
    *,
    peaks: Sequence[Peak],
    answers: Mapping[Queue, ResponseTimes],
    costs: Costs,
    throughput: float | None,
    express_share: float,
    segments: float,
    failures: float,
) -> System:
    """The system that is planned for. Raises ConfigError for a number out of its bounds."""
    return System(
        peaks=peaks,
        answers=answers,
        costs=costs,
        throughput=None if throughput is None else number("--throughput", throughput, 0.01, 1e6),
        express_share=number("--express-share", express_share, 0, 1),
        segments=number("--segments", segments, 1, 20),
        failed=number("--failures", failures, 0, 0.9),
        backoff_s={queue: Queues().of(queue).backoff_s for queue in QUEUES},
    )


def bounds(window: int | None, processes_max: int | None) -> Bounds:
    """What a plan may use. Raises ConfigError."""
    concurrency = CONCURRENCY_MAX if window is None else window
    processes = PROCESSES_MAX if processes_max is None else processes_max
    return Bounds(
        concurrency_max=whole("--window", concurrency, 1, CONCURRENCY_MAX),
        processes_max=whole("--processes-max", processes, 1, PROCESSES_MAX),
    )


def idle_targets(wanted: Sequence[targets.Target], made: System) -> list[str]:
    """A sentence for each target of a queue in which nothing arrives."""
    return [
        f"{t}: nothing arrives in {t.queue}, so it says nothing."
        for t in wanted
        if t.queue not in made.queues
    ]


class Recorded(NamedTuple):
    """What arrives, from a file or from the activity, and what is known with it."""

    peaks: Sequence[Peak]
    segments: float = 1.0
    # By queue, how long providers took to answer; those of which it is not known are absent.
    answers: Mapping[Queue, ResponseTimes] = {}
    remarks: Sequence[str] = ()


def recorded(from_activity: str, peaks_file: Path | None, engine: EngineOptions) -> Recorded:
    """What arrives: of `from_activity`, such as "30d", or of a CSV file. Raises ConfigError."""
    if bool(from_activity) == (peaks_file is not None):
        raise ConfigError("One of --peaks and --from-activity is needed, and not both.")
    if peaks_file is not None:
        try:
            return Recorded(peaks.read(_read("--peaks", peaks_file).splitlines(), str(peaks_file)))
        except ValueError as e:
            raise ConfigError(f"--peaks: {e}.") from e
    digits = from_activity.removesuffix("d")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 5 and 1 <= int(digits) <= 3660):
        raise ConfigError("--from-activity must be a number of days from 1 to 3660, such as 30d.")
    minutes = engine.admin(90.0).get(f"/v1/admin/traffic?days={int(digits)}", traffic.Traffic).busiest
    if not minutes:
        days = counted(int(digits), "day")
        raise ConfigError(f"--from-activity: no message was accepted in {days}; use --peaks.")
    times = {minute.queue: traffic.response_times_of(minute) for minute in minutes}
    return Recorded(
        traffic.peaks_of(minutes),
        traffic.segments_of(minutes),
        {queue: found for queue, found in times.items() if found is not None},
        [_remark(minute) for minute in minutes],
    )


def _remark(minute: traffic.BusyMinute) -> str:
    at = datetime.fromtimestamp(minute.at_s, UTC)
    messages = counted(minute.messages, "message")
    return f"the busiest minute of {minute.queue} was {at:%Y-%m-%d %H:%M} UTC: {messages}."


def answers(given: Sequence[str], known: Mapping[Queue, ResponseTimes]) -> dict[Queue, ResponseTimes]:
    """By queue, the times of its provider. `given`: TIMES or QUEUE:TIMES each; what it does not say is as it
    is `known`. Raises ConfigError."""
    found = dict(known)
    for text in given:
        name, colon, rest = text.partition(":")
        one = next((queue for queue in QUEUES if colon and queue == name.strip()), None)
        times = _times(rest if one else text)
        for queue in (one,) if one else QUEUES:
            found[queue] = times
    if not found:
        raise ConfigError("--response-times is missing: how long the provider takes to answer.")
    # A queue in which nothing arrives has none in the activity.
    some = next(iter(found.values()))
    if given and (missing := [queue for queue in QUEUES if queue not in found]):
        raise ConfigError(
            f"--response-times says nothing of {missing[0]}; give TIMES, or {missing[0]}:TIMES."
        )
    return {queue: found.get(queue, some) for queue in QUEUES}


def _times(text: str) -> ResponseTimes:
    try:
        if os.path.isfile(text.strip()):
            return response_times.parse_lines(
                _read("--response-times", Path(text.strip())).splitlines(), text
            )
        return response_times.parse(text)
    except ValueError as e:
        raise ConfigError(f"--response-times: {e}.") from e


def target(text: str) -> targets.Target:
    """A target from its text. Raises ConfigError."""
    try:
        return targets.parse(text)
    except ValueError as e:
        raise ConfigError(f"--target {e}.") from e


def costs(file: Path | None) -> tuple[Costs, list[str]]:
    """What the engine costs, and what there is to say about that. Raises ConfigError."""
    measured = Path(os.environ.get("SMSENGINE_DATA_DIR", "") or DEFAULT) / costs_of.CALIBRATION
    if file is None and not measured.is_file():
        return costs_of.REFERENCE, [
            "what the engine costs is that of a reference machine; `make calibrate` measures this one."
        ]
    chosen = file or measured
    try:
        found = costs_of.decode(_read("--costs", chosen).encode())
    except ValueError as e:
        raise ConfigError(f"--costs {chosen} is not of `make calibrate`: {e}.") from e
    elsewhere = platform.node() not in found.machine
    return found, [f"what the engine costs was measured on {found.machine}."] if elsewhere else []


def _read(option: str, file: Path) -> str:
    try:
        return text_file.read(file)
    except (OSError, NotUtf8) as e:
        reason = e.strerror if isinstance(e, OSError) else e
        raise ConfigError(f"{option} {file} cannot be read: {reason}.") from e


def check_place(file: Path) -> None:
    """Confirm that a report has a folder to be written to, before it is made. Raises ConfigError."""
    if not file.absolute().parent.is_dir():
        raise ConfigError(f"--report {file} cannot be written: there is no such folder.")


def write(file: Path, text: str) -> None:
    """Write a report. Raises ConfigError."""
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as e:
        raise ConfigError(f"--report {file} cannot be written: {e.strerror}.") from e


def number(option: str, value: float, low: float, high: float) -> float:
    """`value` when it is between the two. Raises ConfigError, which names the option."""
    if not low <= value <= high:
        raise ConfigError(f"{option} must be a number from {low:g} to {high:,.10g}.")
    return value


def whole(option: str, value: int, low: int, high: int) -> int:
    """`value` when it is between the two. Raises ConfigError, which names the option."""
    if not low <= value <= high:
        raise ConfigError(f"{option} must be a whole number from {low} to {high:,}.")
    return value
