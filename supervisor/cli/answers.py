"""What the API answers to the commands, as far as they show it.

Unknown fields are passed over, so that a command also talks to a newer engine.
"""

from __future__ import annotations

import msgspec

from engine.organisations import Balance, Organisation


class Organisations(msgspec.Struct, frozen=True, kw_only=True):
    organisations: list[Organisation]
    # Ask again with `after` set to this; None: that was all.
    next: int | None = None


class QueueState(msgspec.Struct, frozen=True, kw_only=True):
    """One queue over all shards."""

    # Messages that no worker has yet.
    waiting: int = 0
    # With a worker now.
    in_hand: int = 0
    # Scheduled, or waiting for another attempt.
    due: int = 0
    # Set aside after killing workers.
    dead: int = 0
    # Age of the oldest that waits.
    oldest_ms: int = 0


class LedgerState(msgspec.Struct, frozen=True, kw_only=True):
    # How far the books in PostgreSQL are behind the use in Redis.
    lag_ms: int = 0


class ActivityState(msgspec.Struct, frozen=True, kw_only=True):
    # Batches of events not yet in ClickHouse, and the age of the oldest.
    waiting_entries: int = 0
    oldest_ms: int = 0


class ReceiptsState(msgspec.Struct, frozen=True, kw_only=True):
    # Batches of receipts not looked at yet, and the age of the oldest.
    waiting_entries: int = 0
    oldest_ms: int = 0
    # Receipts whose message was not found yet.
    set_aside: int = 0
    # Receipts given up in the last 24 hours; None: ClickHouse does not answer.
    unmatched: int | None = None


class Process(msgspec.Struct, frozen=True, kw_only=True):
    role: str
    index: int = 1
    pid: int = 0
    state: str = ""
    since_us: int = 0
    restarts: int = 0
    # Version of the routes, pauses and throughputs in force in it; None: it routes nothing, or not yet.
    routing: int | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    node: str = ""
    processes: list[Process] = []
    queues: dict[str, QueueState] = {}
    ledger: LedgerState = LedgerState()
    activity: ActivityState = ActivityState()
    receipts: ReceiptsState = ReceiptsState()


class AuditCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One law of the audit."""

    name: str
    # clean, not_clean or not_checked.
    verdict: str
    detail: str = ""
    # What to do; "" when it is clean.
    advice: str = ""


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of an audit; its verdict is the worst of its checks'."""

    verdict: str
    checks: list[AuditCheck] = []
    # Units of all organisations by place; none when the books could not be read.
    totals: dict[str, int] = {}
    # Rows that were summed.
    journal_rows: int = 0
    activity_rows: int = 0
    seconds: float = 0.0


class TopUp(msgspec.Struct, frozen=True, kw_only=True):
    organisation_id: int
    reference: str
    units: int
    balance: Balance
    at: str = ""
