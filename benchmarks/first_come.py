"""The command `smsengine`, of an engine whose queues are first come, first served: to compare with.

Everything is the engine's own, but that no message waits in a list of its organisation: all that waits lies
in one stream, in bundles, as beside a process of a version that does not know lists. The supervisor forks its
processes, so what is changed here is changed in all of them.
"""

from __future__ import annotations

from engine.stores.redis.pulse import Pulse
from supervisor.__main__ import main

_readable = Pulse.readable


def _readable_but_lists(pulse: Pulse, kind: str) -> bool:
    return kind != "line" and _readable(pulse, kind)


if __name__ == "__main__":
    Pulse.readable = _readable_but_lists  # type: ignore[assignment, method-assign]
    main()
