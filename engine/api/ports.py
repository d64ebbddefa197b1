"""What the HTTP API needs of the rest of the engine, as protocols; `boot` passes the real parts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from engine.api.client_address import NO_PROXIES, TrustedProxies
from engine.api.key_ports import AdminKeyBook, ApiKeyBook, Changes
from engine.api.message_ports import Batches, Cancels, Lists
from engine.api.push_ports import InboundReader, ReceiptReader
from engine.api.recipient_ports import RecipientServices
from engine.api.report_ports import ReportServices
from engine.api.request_counts import RequestCounts
from engine.api.webhook_ports import WebhookServices
from engine.capacity.plan_answer import PlanAnswer
from engine.capacity.wish import PlanWish
from engine.delivery.dead_letters import DeadLetter, DeadLetterId
from engine.errors import Refusal
from engine.intake.estimate import Estimate
from engine.nodes.control import NodeControl
from engine.organisations import (
    Adjustment,
    Balance,
    BookedUsage,
    Credential,
    Drain,
    Limits,
    LossSum,
    NewOrganisation,
    Organisation,
    Pause,
    Rebuilding,
    TopUp,
    Transaction,
    UnbookedSum,
)
from engine.providers.problems import Problems
from engine.providers.settings import ProviderSettings
from engine.receipts.ports import ReceiptSink
from engine.records import Accepted, IdempotentCall, MessageDraft, PriceSheet, Queue, Replay
from engine.routing.records import Route, RoutingPlan
from engine.stores.redis.problems import ProblemCounts

Draft = MessageDraft | Refusal
Outcome = Accepted | Refusal
Render = Callable[[Sequence[Outcome]], bytes]
# (organisation id, units, reference, reason, once) → the adjustment, and whether this call made it. Raises
# Refusal 404, 409, 422, Unavailable.
Adjust = Callable[[int, int, str, str, IdempotentCall | None], Awaitable[tuple[Adjustment, bool]]]
# (organisation id, before id, limit) → its transactions, newest first. Raises Refusal 404, Unavailable.
Transactions = Callable[[int, int, int], Awaitable[list[Transaction]]]

# (organisation id, message id as a lower-case UUID) → its view, None when it has no such message.
History = Callable[[int, str], Awaitable[msgspec.Struct | None]]


class AuditCall(Protocol):
    """Compares the books, the streams and the activity."""

    async def __call__(self, *, full: bool, timeout_s: float) -> object:
        """An audit that has its answer within `timeout_s`; `full`: without regard to checkpoints.

        Raises Unavailable when nothing could be looked at."""


class Submitted(Protocol):
    """What became of a submission."""

    @property
    def answer(self) -> bytes:
        """What `render` made of the outcomes; for a repeated Idempotency-Key the first answer."""

    @property
    def replayed(self) -> bool:
        """Whether `answer` is the first answer to this Idempotency-Key."""


class UnderWay(Protocol):
    """A submission that is not decided yet."""

    def give_up(self) -> None:
        """Nobody waits for it any more: what can be taken back is, and nobody is told its outcome."""


class Ingest(Protocol):
    """The way in for messages."""

    def begin(
        self,
        organisation_id: int,
        drafts: Sequence[Draft],
        done: Callable[[Submitted | Exception], None],
        *,
        render: Render,
        idempotency_key: str = "",
        fingerprint: bytes = b"",
    ) -> UnderWay:
        """As `submit`, for one that does not wait: `done` is told the answer, or what `submit` would raise,
        once and never within this call. Raises what is known to fail at once; then `done` is told nothing.
        """

    async def submit(
        self,
        organisation_id: int,
        drafts: Sequence[Draft],
        *,
        render: Render,
        idempotency_key: str = "",
        fingerprint: bytes = b"",
    ) -> Submitted:
        """One outcome per draft, in order; a draft that is a Refusal already stays refused.

        What `render` raises is raised here, and then nothing was accepted. Raises
        Refusal 409 when the key was used for another request, and Unavailable when
        nothing could be decided: then the same may be submitted again.
        """

    def estimate(self, organisation_id: int, draft: MessageDraft, available: int) -> Estimate:
        """What a message would come to, for an organisation that has `available` units.

        Raises Refusal for a text that is none, Unavailable."""


class Directory(Protocol):
    """Organisations, and their top-ups. Every call raises Unavailable."""

    async def credentials(self, key_ids: Sequence[int]) -> Mapping[int, Credential]:
        """Those of the keys that exist and are neither revoked nor expired, by key id."""

    async def create_organisation(self, name: str, once: IdempotentCall | None = None) -> NewOrganisation:
        """An organisation with its account and its first key. Raises Refusal 409, 422."""

    async def organisations(self, after: int, limit: int) -> list[Organisation]:
        """At most `limit` organisations with ids above `after`, by id."""

    async def organisation(self, organisation_id: int) -> Organisation:
        """One organisation. Raises Refusal 404."""

    async def top_up(
        self, organisation_id: int, units: int, reference: str, once: IdempotentCall | None = None
    ) -> tuple[TopUp, bool]:
        """The top-up, and whether this call added it."""

    async def balance(self, organisation_id: int) -> Balance:
        """The organisation's credit, units. Raises Refusal 404."""

    async def set_low_balance(self, organisation_id: int, units: int | None) -> Organisation:
        """Tell the organisation when it has fewer usable units; None: never. Raises Refusal 404, 422."""


class LimitBook(Protocol):
    """What limits organisations, and who is paused. Every call raises Unavailable."""

    @property
    def default(self) -> Limits:
        """What holds where nothing was set."""

    async def limits(self, organisation_id: int) -> Limits:
        """What was set for an organisation. Raises Refusal 404."""

    async def change(self, organisation_id: int, values: Mapping[str, float | None]) -> Limits:
        """Set some of the limits, None: as for all; all of them then. Raises Refusal 404, 422."""

    async def set_paused(
        self, organisation_id: int, paused: bool, reason: str = "", once: IdempotentCall | None = None
    ) -> None:
        """Send nothing of it, or go on. Raises Refusal 404, 409, 422."""


class Unbooked(Protocol):
    """Usage that the books could not cover. Every call raises Unavailable."""

    async def sums(self, after: int, limit: int) -> list[UnbookedSum]:
        """At most `limit` organisations that have some, with ids above `after`, by id."""

    async def book(self, organisation_id: int, write_off: str | None, name: str | None) -> BookedUsage:
        """Book that of an organisation, or only make it again. Raises Refusal 404, 409, 422."""


class Losses(Protocol):
    """What was lost when Redis or PostgreSQL went back. Every call raises Unavailable."""

    async def losses(self) -> list[LossSum]:
        """The last losses, the newest first."""

    async def rebuild(self, *, dry_run: bool, timeout_s: float) -> Rebuilding:
        """Book usage that PostgreSQL lost from the recorded activity, or say what would be booked."""


class Prices(Protocol):
    """The price table. Every call raises Unavailable."""

    async def read(self) -> PriceSheet:
        """The table that stands."""

    async def replace(self, prices: Mapping[str, int], version: int | None = None) -> PriceSheet:
        """Let the table be `prices`; with `version` only if that one stands."""


class Routing(Protocol):
    """Routes, and what operators have changed of providers. Every call raises Unavailable."""

    async def read(self) -> RoutingPlan:
        """The plan that stands."""

    async def replace(self, routes: Sequence[Route], version: int | None = None) -> RoutingPlan:
        """Let `routes` be all routes; with `version` only if that one stands."""

    async def set_paused(
        self, provider: str, paused: bool, reason: str = "", once: IdempotentCall | None = None
    ) -> RoutingPlan:
        """Send nothing through this provider, or send through it again. Raises Refusal 404, 409, 422."""

    async def provider_pauses(self) -> dict[str, Pause]:
        """The providers that are paused, by name."""

    async def pause_queue(
        self, queue: Queue, reason: str | None, once: IdempotentCall | None = None
    ) -> Pause | None:
        """Send nothing of this queue for `reason`, or with None go on; its pause then. Raises Refusal 409,
        422."""

    async def drain_queue(
        self, queue: Queue, reason: str, once: IdempotentCall | None = None
    ) -> Drain | None:
        """Let a queue take no new messages; its drain then. Raises Refusal 409, 422."""

    async def queue_pauses(self) -> dict[Queue, Pause]:
        """The queues that are paused."""

    async def queue_drains(self) -> dict[Queue, Drain]:
        """The queues that are drained."""

    async def set_throughput(self, provider: str, throughput: float | None) -> RoutingPlan:
        """Segments a second; None: as configured. Raises Refusal 404, 422."""


class DeadLetters(Protocol):
    """The messages that were set aside. Every call raises Unavailable, all but `page` Refusal 404."""

    async def page(
        self, queue: Queue | None, organisation_id: int | None, after: DeadLetterId | None, limit: int
    ) -> list[DeadLetter]:
        """At most `limit` of them behind `after`, in a fixed order; None: all queues, all organisations."""

    async def letter(self, letter_id: DeadLetterId) -> DeadLetter:
        """One of them."""

    async def replay(self, letter_id: DeadLetterId) -> DeadLetter:
        """Put it into its queue again, once. Raises Refusal 409."""

    async def drop(self, letter_id: DeadLetterId) -> DeadLetter:
        """Release its units, once. Raises Refusal 409."""


class KeptAnswers(Protocol):
    """What requests with an Idempotency-Key were answered. Every call raises Unavailable."""

    async def begin(self, organisation_id: int | None, key: str, fingerprint: bytes) -> Replay | None:
        """Use a key of an organisation's, or of the operator's; None when this is its first use."""

    async def keep(self, organisation_id: int | None, key: str, fingerprint: bytes, answer: bytes) -> None:
        """Keep the answer to the first use of a key, if there is room."""


class ProviderProblems(Protocol):
    """What providers sent and was not understood. Every call raises Unavailable."""

    async def counts(self, providers: Sequence[str]) -> Sequence[ProblemCounts]:
        """How often, by provider and kind."""

    async def of(self, provider: str) -> Sequence[ProblemCounts]:
        """How often one of them, by kind, with the last samples."""


@dataclass(frozen=True, kw_only=True)
class CommonServices:
    """What every process with an HTTP API passes to it."""

    directory: Directory
    # (ids of API keys) → notes that they are in use now. Raises Unavailable.
    note_key_uses: Callable[[Sequence[int]], Awaitable[None]]
    api_keys: ApiKeyBook
    recipients: RecipientServices
    history: History
    cancels: Cancels
    lists: Lists
    batches: Batches
    answers: KeptAnswers
    transactions: Transactions
    reports: ReportServices
    # Each store that is needed to serve, and "ok" or what is wrong with it: `redis`, `postgres`.
    ready: Callable[[], Awaitable[dict[str, str]]]
    # How requests were answered.
    counts: RequestCounts = field(default_factory=RequestCounts)
    webhooks: WebhookServices
    # UTC, microseconds since 1970.
    now_us: Callable[[], int]
    # Largest request body, bytes.
    body_bytes_max: int
    # A request not answered by then gets 503, seconds.
    timeout_s: float
    # Set when this process is about to end.
    draining: asyncio.Event
    # The proxies that say who their clients are.
    trusted_proxies: TrustedProxies = NO_PROXIES
    # Whether operators wish that this node takes nothing new.
    drained: Callable[[], bool] = lambda: False

    def parting(self) -> bool:
        """Whether every answer asks the client to reconnect, to another process or node."""
        return self.draining.is_set() or self.drained()


@dataclass(frozen=True, kw_only=True)
class AdminServices(CommonServices):
    """Everything that a process passes to the admin calls."""

    admin_keys: AdminKeyBook
    # (ids of admin keys) → notes that they are in use now. Raises Unavailable.
    note_admin_key_uses: Callable[[Sequence[int]], Awaitable[None]]
    changes: Changes
    adjust: Adjust
    limits: LimitBook
    unbooked: Unbooked
    losses: Losses
    prices: Prices
    routing: Routing
    dead_letters: DeadLetters
    nodes: NodeControl
    # In the order of the configuration.
    providers: Sequence[ProviderSettings]
    # What all processes have noted of what providers sent and was not understood.
    provider_problems: ProviderProblems
    # The status, who has a backlog in a queue, the busiest minutes of so many days; as msgspec can encode.
    status: Callable[[], Awaitable[object]]
    backlog: Callable[[Queue], Awaitable[object]]
    traffic: Callable[[int], Awaitable[object]]
    audit: AuditCall
    # A plan of capacity. Raises Refusal 422, Unavailable.
    plan: Callable[[PlanWish], Awaitable[PlanAnswer]]
    # (header Accept) → what the node counts, as text, and its content type.
    scrape: Callable[[str], Awaitable[tuple[bytes, str]]]
    # `keys.digest` of the whole admin key; b"" closes the admin calls.
    admin_key_sha256: bytes
    # The same of the key that is good for metrics alone.
    metrics_key_sha256: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Services(CommonServices):
    """Everything that a process passes to the public API."""

    ingest: Ingest
    # By name, those of the providers that push their receipts; and where these are put.
    receipt_readers: Mapping[str, ReceiptReader]
    receipts: ReceiptSink
    # By name, those of the providers that push what recipients write.
    inbound_readers: Mapping[str, InboundReader]
    # Where is noted what cannot be read in them.
    problems: Problems
    # Whether this process has quota to spend, so that it accepts messages also without PostgreSQL.
    can_spend: Callable[[], bool]
    # For the admin calls on the same port; None: they have one of their own.
    admin: AdminServices | None = None
