"""What a worker shows of its lanes, beside what it counts."""

from __future__ import annotations

from functools import partial

from engine.boot.counter_log import CounterLog
from engine.boot.meter import Meter
from engine.delivery.lane import Lane
from engine.delivery.lanes import Lanes
from engine.delivery.worker import Worker


def watch_worker(meter: Meter, counters: CounterLog, worker: Worker, lanes: Lanes) -> None:
    """Show what `worker` counts, and each of its lanes."""
    counters.watch("messages ended", worker.counts)
    meter.histogram("smsengine_accepted_to_sent_seconds", worker.times)
    for lane in lanes:
        counters.watch("provider verdicts", lane.counts, provider=lane.name)
        meter.number("smsengine_provider_sends", partial(_begun, lane), provider=lane.name)
        meter.histogram("smsengine_provider_answer_seconds", lane.awaited.answers, provider=lane.name)

    def show() -> None:
        meter.gauge("smsengine_messages_in_hand", worker.in_hand)
        for lane in lanes:
            _show(meter, lane)

    meter.gauges(show)


def _begun(lane: Lane) -> int:
    return lane.awaited.begun


def _show(meter: Meter, lane: Lane) -> None:
    name = lane.name
    meter.gauge("smsengine_provider_in_flight", lane.awaited.in_flight, provider=name)
    meter.gauge("smsengine_provider_waiting_messages", len(lane.waiting), provider=name)
    meter.gauge("smsengine_provider_paused", int(lane.paused), provider=name)
    if lane.allowance is not None:
        meter.gauge("smsengine_provider_throughput", lane.allowance.rate, provider=name)
    for state in ("closed", "open", "half-open"):
        number = int(lane.breaker.state == state)
        meter.gauge("smsengine_provider_circuits", number, provider=name, state=state)
