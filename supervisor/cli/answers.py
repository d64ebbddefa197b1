"""The answers of the API, with the fields that the commands show.

Unknown fields are passed over, so that a command also understands a newer engine.
"""

from __future__ import annotations

import msgspec

from engine.organisations import Balance, Drain, LossSum, Organisation, Pause, UnbookedSum


class Organisations(msgspec.Struct, frozen=True, kw_only=True):
    """One page of organisations, in the order of their ids."""

    organisations: list[Organisation]
    # The value of `after` for the next page; None: this is the last page.
    next: int | None = None


class UnbookedSums(msgspec.Struct, frozen=True, kw_only=True):
    """One page of organisations with usage that waits to be booked, in the order of their ids."""

    unbooked: list[UnbookedSum]
    # The value of `after` for the next page; None: this is the last page.
    next: int | None = None


class Losses(msgspec.Struct, frozen=True, kw_only=True):
    """The last losses of Redis and PostgreSQL, the newest first."""

    losses: list[LossSum]


class QueueState(msgspec.Struct, frozen=True, kw_only=True):
    """One queue over all shards."""

    # Messages that no worker has yet.
    waiting: int = 0
    # Messages that a worker has now.
    in_hand: int = 0
    # Messages that are scheduled, or wait for another attempt.
    due: int = 0
    # Dead letters.
    dead: int = 0
    # Of those that wait, the messages of organisations that are paused.
    paused: int = 0
    # Age of the oldest message that waits.
    oldest_ms: int = 0


class LedgerState(msgspec.Struct, frozen=True, kw_only=True):
    """How far the ledger is."""

    # How far the books in PostgreSQL are behind the usage in Redis.
    lag_ms: int = 0
    # The transaction in PostgreSQL that has had locks on the books for long; "" when there is none.
    held_up_by: str = ""
    # Organisations that are suspended because usage of theirs is unbooked, and the units of that usage.
    unbooked_organisations: int = 0
    unbooked_units: int = 0
    # Shards of which PostgreSQL lost usage that waits to be rebuilt.
    shards_to_rebuild: int = 0
    # Sent and not charged because Redis lost data in the last seven days: units, and messages if known.
    uncharged_units: int = 0
    uncharged_messages: int = 0


class ActivityState(msgspec.Struct, frozen=True, kw_only=True):
    """How far the archiver is."""

    # Batches of events that are not in ClickHouse yet, and the age of the oldest.
    waiting_entries: int = 0
    oldest_ms: int = 0


class ReceiptsState(msgspec.Struct, frozen=True, kw_only=True):
    """How far the matching of receipts to messages is."""

    # Batches of receipts that are not looked at yet, and the age of the oldest.
    waiting_entries: int = 0
    oldest_ms: int = 0
    # Receipts whose message was not found yet.
    set_aside: int = 0
    # Receipts that were given up in the last 24 hours; None: ClickHouse does not answer.
    unmatched: int | None = None


class FailingEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An origin of an organisation that does not take its webhooks."""

    organisation_id: int
    origin: str
    attempts: int = 0
    waits_ms: int = 0
    last_status: int | None = None
    last_reason: str = ""


class WebhooksState(msgspec.Struct, frozen=True, kw_only=True):
    """Deliveries of webhooks that could not be made at once."""

    # How many wait, and since when the oldest does.
    waiting: int = 0
    oldest_ms: int = 0
    # Failed for good in the last 24 hours.
    failed: int = 0
    # How many origins fail, and the first of them.
    failing_endpoints: int = 0
    failing: list[FailingEndpoint] = []


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """One process of the engine; `pid` 0: it is not running now. `since_us` is UTC microseconds."""

    role: str
    index: int = 1
    pid: int = 0
    state: str = ""
    since_us: int = 0
    restarts: int = 0
    # Which configuration it was started with: how many reloads there had been.
    generation: int = 0
    # Version of the routes, pauses and throughputs in force in it; None: it routes nothing, or not yet.
    routing: int | None = None
    # From which level on it logs.
    log_level: str = ""
    # Processes that died here in a row, why the last one did, and whether they are so many that
    # something must be wrong.
    deaths: int = 0
    last_words: str = ""
    degraded: bool = False


class Scaled(msgspec.Struct, frozen=True, kw_only=True):
    """The last change by autoscaling of the workers of a queue on a node."""

    processes: int
    concurrency: int
    processes_before: int = 0
    concurrency_before: int = 0
    at_us: int = 0
    reason: str = ""


class NodeProcess(msgspec.Struct, frozen=True, kw_only=True):
    """One process of a node, as the node noted it."""

    role: str
    index: int = 1
    pid: int = 0
    state: str = ""
    since_us: int = 0
    restarts: int = 0
    generation: int = 0
    # Of one CPU, percent; and resident memory, MiB.
    cpu_percent: float = 0.0
    memory_mb: int = 0
    degraded: bool = False
    last_words: str = ""


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """The room on the disk of a node's data directory that is nearest to full, MiB."""

    place: str
    free_mb: int
    total_mb: int
    low_below_mb: int


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One node of the engine."""

    name: str
    # running, draining, drained, stopped or gone.
    seen: str
    at_us: int = 0
    version: str = ""
    formats: int = 0
    since_us: int = 0
    url: str = ""
    # Why it is drained.
    reason: str = ""
    # Whether an operator wishes it drained; None: not known.
    drain_wished: bool | None = None
    # By role, how many processes it is to have, and how many its configuration says.
    roles: dict[str, int] = {}
    configured: dict[str, int] = {}
    # By queue, how many sends each worker may have in flight, and how many its configuration says.
    concurrency: dict[str, int] = {}
    configured_concurrency: dict[str, int] = {}
    # By queue, the last change by autoscaling.
    scaled: dict[str, Scaled] = {}
    processes: list[NodeProcess] = []
    more_processes: int = 0
    disk: Disk | None = None


class QueueRates(msgspec.Struct, frozen=True, kw_only=True):
    """How fast one queue moves: messages a second; milliseconds from acceptance to a provider."""

    in_per_s: float = 0.0
    out_per_s: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None
    # Messages a second in each step of the last minutes, the last step last.
    ins: list[float] = []
    outs: list[float] = []


class ProviderRates(msgspec.Struct, frozen=True, kw_only=True):
    """How fast one provider is sent to, and answers."""

    sends_per_s: float = 0.0
    receipts_per_s: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None
    in_flight: int = 0
    waiting: int = 0
    # Segments a second; None: without a limit.
    throughput: float | None = None
    paused: bool = False
    # Workers by the state of their circuit breaker.
    circuits: dict[str, int] = {}


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """How fast things move on all nodes."""

    nodes: list[str] = []
    step_s: int = 5
    queues: dict[str, QueueRates] = {}
    providers: dict[str, ProviderRates] = {}
    # A second: submissions, waits, grants, refusals.
    credit: dict[str, float] = {}
    # A second: events, delivered, again, failed.
    webhooks: dict[str, float] = {}


class PausedOrganisation(msgspec.Struct, frozen=True, kw_only=True):
    """An organisation that an operator has paused."""

    id: int
    name: str
    reason: str = ""


class MemoryState(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of Redis, MB of 2**20 bytes, and whether messages are refused for want of it."""

    used_mb: int = 0
    limit_mb: int = 0
    full: bool = False
    # What waits for ClickHouse takes of it, and when it is full if that goes on to wait; None: not known.
    waiting_mb: int | None = None
    lasts_ms: int | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to GET /v1/admin/status."""

    node: str = ""
    processes: list[Process] = []
    # Each of these is None when it is not known.
    queues: dict[str, QueueState] | None = None
    ledger: LedgerState | None = None
    memory: MemoryState | None = None
    activity: ActivityState | None = None
    receipts: ReceiptsState | None = None
    webhooks: WebhooksState | None = None
    # Providers that are paused, by name; None: not known.
    paused_providers: list[str] | None = None
    # Since when and why they are; None: not known, as by an engine of an older version.
    provider_pauses: dict[str, Pause] | None = None
    # Queues that are paused, by name; None: not known.
    paused_queues: dict[str, Pause] | None = None
    # Queues that are drained, by name; None: not known.
    drained_queues: dict[str, Drain] | None = None
    # All nodes, and how fast things move on them; None: not known.
    nodes: list[Node] | None = None
    flow: Flow | None = None
    # Organisations that are paused, the first hundred by id; None: not known.
    paused_organisations: list[PausedOrganisation] | None = None
    # How often providers sent something in the last 60 minutes that was not understood.
    problems_last_hour: int | None = None
    # How far the clock of the node is ahead of that of Redis (below 0: behind), milliseconds.
    clock_ahead_ms: int = 0
    # The room on the disk of the data directory of this node, known also when no store answers.
    disk: Disk | None = None
    # By what is not known, such as "ledger": a sentence that says why.
    missing: dict[str, str] = {}


class AuditCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One law of the audit."""

    name: str
    # clean, not_clean or not_checked.
    verdict: str
    detail: str = ""
    # What to do; "" when it is clean.
    advice: str = ""


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of an audit; its verdict is the worst verdict of its checks."""

    verdict: str
    checks: list[AuditCheck] = []
    # Units of all organisations by where they are; empty when the books could not be read.
    totals: dict[str, int] = {}
    # How many rows were summed.
    journal_rows: int = 0
    activity_rows: int = 0
    # Recorded as sent and never charged, because Redis lost data.
    uncharged_units: int = 0
    # How many messages that were, as far as audits could count them.
    uncharged_messages: int = 0
    seconds: float = 0.0


class TopUp(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a top-up, also to one that had been made before; the balance is that of now."""

    organisation_id: int
    reference: str
    units: int
    balance: Balance
    at: str = ""
