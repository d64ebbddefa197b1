"""What a provider gives to whoever sends through it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, runtime_checkable

from engine.records import Message, Verdict

# Called exactly once per submitted message, on the loop, never from inside `submit`. It only
# notes the verdict, and never raises.
Done = Callable[[Verdict], None]

# What happened on a connection: it stands (with words about it), could not be made (why), octets were
# written or read, it is over (why).
WireEvent = Literal["connected", "failed", "sent", "received", "closed"]
# Watches the connections of one provider, for a person: (connection, event, octets or words in UTF-8). The
# connection only tells one from another. Called on the loop; it must not raise.
Wire = Callable[[object, WireEvent, bytes], None]


class Provider(Protocol):
    """Hands messages to one provider."""

    @property
    def name(self) -> str:
        """The name of its section; every verdict of it carries this name."""

    async def start(self) -> None:
        """Make ready; does not fail because the provider is away."""

    async def stop(self) -> None:
        """Close; what is in flight is first given its verdict, `unknown` at worst."""

    def submit(self, message: Message, done: Done) -> None:
        """Begin to send. Returns at once; `done` is called with the verdict.

        The caller bounds how many are in flight. Every message gets its verdict
        within the provider's time-out, come what may.
        """


class Verdicts(Protocol):
    """Where a provider puts the verdicts on messages that it was given together. It only notes them, and
    never raises. A message goes by its token, and the first verdict on it counts."""

    def ended(self, token: int, verdict: Verdict) -> None:
        """One message has its verdict, whatever it is."""

    def accepted(self, tokens: list[int], ids: list[str], latency_us: list[int], code: str) -> None:
        """The provider has these messages, with one `code` for all. `ids`, `latency_us`: as in `Verdict`, of
        each. The lists are the callee's from then on."""


@runtime_checkable
class BatchProvider(Provider, Protocol):
    """A provider that takes many messages in one call, and gives many verdicts in one."""

    def submit_all(self, messages: Sequence[Message], first: int, verdicts: Verdicts) -> None:
        """Begin to send all. Their tokens are `first` and the numbers that follow. The rest is as for
        `submit`: `verdicts` is not called from inside it, and hears of each message in time."""
