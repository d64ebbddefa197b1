"""Note what is wanted of the processes: by the configuration, by operators, and by autoscaling. Rules only.

The last two come as lines from the process that speaks for the node, and are told again and again. A line
that cannot be read changes nothing.
"""

from __future__ import annotations

import msgspec

from engine.config import DRAIN_ORDER, Config
from engine.nodes.records import NodeWish, QueueScaled
from engine.records import Queue
from supervisor.process import scaling
from supervisor.process.reconcile import Observed


def want(observed: Observed, config: Config) -> None:
    """Want what this configuration says, as far as operators and autoscaling do not say otherwise."""
    observed.configured = {role: getattr(config.roles, role) for role in DRAIN_ORDER}
    observed.configured_concurrency = scaling.configured_concurrency(config.queues)
    observed.providers = len(config.providers)
    observed.autoscale = config.autoscale.by_queue()
    observed.scaled = {q: last for q, last in observed.scaled.items() if q in observed.autoscale}
    _follow(observed)


def noted_wish(observed: Observed, text: str) -> bool:
    """Note what operators wish of the node now, JSON; whether that is another wish."""
    try:
        wish = msgspec.json.decode(text, type=NodeWish)
    except msgspec.DecodeError:
        return False
    changed, observed.wish = wish != observed.wish, wish
    _follow(observed)
    return changed


def noted_scaled(observed: Observed, text: str) -> dict[Queue, QueueScaled]:
    """Note what autoscaling makes of the node now, JSON; what is new of it. "": it has said nothing yet."""
    scaled = scaling.scaled_of(text, observed.autoscale) if text else None
    if scaled is None:
        return {}
    new = {queue: last for queue, last in scaled.items() if observed.scaled.get(queue) != last}
    observed.scaled = scaled
    _follow(observed)
    return new


def _follow(observed: Observed) -> None:
    wish, scaled = observed.wish, observed.scaled
    observed.wanted = scaling.wanted_of(observed.configured, wish, scaled)
    observed.concurrency = scaling.concurrency_of(observed.configured_concurrency, wish, scaled)
