from collections.abc import Callable, Sequence

from engine.errors import Refusal
from engine.intake.ports import Prices
from engine.records import Accepted, Addressed, MessageDraft, Queue

def addressed_all(
    organisation_id: int,
    drafts: Sequence[MessageDraft | Refusal],
    ids: list[str],
    now_us: int,
    prices: Prices,
    validity_us: dict[Queue, int],
    permit: Callable[[int, str, str], str] | None,
    otherwise: Callable[[int, str, MessageDraft | Refusal, int], Addressed | Refusal],
) -> tuple[list[Addressed | Refusal], int]:
    """(what `otherwise` says of each draft, the units of all that are not refused).

    `otherwise`: `Addressing.address`, with the same `prices`, `validity_us` (by queue, microseconds) and
    `permit`; None: every message may be sent under the sender that it names. Raises what it raises.
    """

def outcomes_of(
    addressed: list[Addressed | Refusal],
) -> tuple[list[Accepted | Refusal], list[Addressed]]:
    """(what the caller is told of each message, those that are not refused)."""
