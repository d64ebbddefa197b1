"""What must be on two machines: messages that were accepted, and messages that a provider was given."""

from __future__ import annotations

from collections.abc import Collection, Iterable


class OnTwoMachines:
    """Where it takes a replica to accept a message, none of these is lost at a failover to that replica."""

    def __init__(self, accepted_on: int) -> None:
        self._accepted_on = accepted_on
        self._accepted: set[str] = set()
        self._sent: set[str] = set()

    def accepted(self, message_ids: Iterable[str]) -> None:
        """Somebody was told that these are accepted."""
        self._accepted.update(message_ids)

    def sent(self, message_id: str) -> None:
        """A provider was given this message."""
        self._sent.add(message_id)

    def emptied(self) -> None:
        """Redis has lost everything, on both."""
        self._accepted.clear()
        self._sent.clear()

    def rewound(self, kept: Collection[str]) -> str:
        """Redis has the messages `kept`, and no others; what is wrong with that, or ""."""
        accepted, sent = self._accepted.difference(kept), self._sent.difference(kept)
        self._accepted -= accepted
        self._sent -= sent
        if self._accepted_on == 1 or not accepted | sent:
            return ""
        which = "accepted" if accepted else "sent"
        return f"messages {sorted(accepted or sent)} were {which} and are lost with the master of Redis alone"
