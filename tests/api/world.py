"""The API over real sockets, with a small ingest of the tests' own behind it."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import Any

import aiohttp
import msgspec

from engine import api_keys
from engine.activity.message_list import MessagePage
from engine.activity.records import MessageFilter
from engine.activity.reports import Report, ReportQuery
from engine.api.app import create_app
from engine.api.auth import Keys
from engine.api.edge.edge import Edge
from engine.api.ports import AdminServices, Draft, Outcome, Render, Services
from engine.api.recipient_ports import RecipientServices
from engine.api.report_ports import ReportServices
from engine.api.request_counts import RequestCounts
from engine.api.server import Server
from engine.api.webhook_ports import WebhookServices
from engine.batches import Batch
from engine.capacity.plan_answer import PlanAnswer
from engine.capacity.wish import PlanWish
from engine.errors import Refusal, Unavailable
from engine.inbound.settings import DEFAULTS
from engine.inbound.words import WordList
from engine.nodes.control import NodeControl
from engine.organisations import LossSum, Rebuilding
from engine.providers.problems import Problems
from engine.providers.settings import ProviderSettings, SimulatedSettings
from engine.records import QUEUE_DEFAULT, Accepted, Replay
from engine.stores.clickhouse.export import ExportQuery
from engine.stores.postgres.adjustments import Adjustments
from engine.stores.postgres.admin_keys import AdminKeyBook
from engine.stores.postgres.api_key_book import ApiKeyBook
from engine.stores.postgres.auto_replies import AutoReplyBook
from engine.stores.postgres.changes import Changes
from engine.stores.postgres.directory import Directory
from engine.stores.postgres.inbound_routes import InboundRouteBook
from engine.stores.postgres.journal import Journal
from engine.stores.postgres.key_uses import KeyUses
from engine.stores.postgres.limits import LimitBook
from engine.stores.postgres.nodes import PostgresNodeWishes
from engine.stores.postgres.opt_outs import OptOutBook
from engine.stores.postgres.pool import Pool
from engine.stores.postgres.prices import Prices
from engine.stores.postgres.routing import Routing
from engine.stores.postgres.sender_rules import SenderBook
from engine.stores.postgres.unbooked import Unbooked
from engine.stores.postgres.webhook_endpoints import EndpointBook
from engine.stores.redis.dead_letters import RedisDeadLetters
from engine.stores.redis.link import RedisLink
from engine.stores.redis.node_notes import RedisNodeNotes
from engine.stores.redis.problems import RedisProblems
from engine.stores.redis.webhook_stream import RedisWebhookStreams
from tests.providers.sink import Sink

ADMIN_KEY = api_keys.new_admin_key()
DRAFT = {"to": "+4915112345678", "text": "Your code is 123456", "queue": "express"}
BODY_BYTES_MAX = 1 << 20
PROVIDERS: tuple[ProviderSettings, ...] = (
    SimulatedSettings(name="first", url="http://127.0.0.1:9", throughput=100.0),
    SimulatedSettings(name="second", url="http://127.0.0.1:9"),
)


# Whether the calls that submit messages are served by the edge, as in the product, or by aiohttp too.
has_edge = True


class Submitted(msgspec.Struct, frozen=True):
    answer: bytes
    replayed: bool


class NoLosses:
    """Nothing was lost, and nothing is to be rebuilt."""

    async def losses(self) -> list[LossSum]:
        return []

    async def rebuild(self, *, dry_run: bool, timeout_s: float) -> Rebuilding:
        return Rebuilding(dry_run=dry_run, rebuilt=[], not_rebuilt=[])


class NoCancels:
    """Knows no messages."""

    async def message(self, organisation_id: int, message_id: str) -> None:
        return None

    async def batch(self, organisation_id: int, batch: Batch) -> None:
        return None


class NoLists:
    """Has no messages."""

    async def page(self, organisation_id: int, wanted: MessageFilter, before: str, limit: int) -> MessagePage:
        return MessagePage(messages=[], next=None, as_of="")


class DeskAnswers:
    """Keeps answers in memory, as Redis does."""

    def __init__(self) -> None:
        self.kept: dict[tuple[int | None, str], Replay] = {}

    async def begin(self, organisation_id: int | None, key: str, fingerprint: bytes) -> Replay | None:
        new = Replay(fingerprint=fingerprint, answer=b"")
        known = self.kept.setdefault((organisation_id, key), new)
        return None if known is new else known

    async def keep(self, organisation_id: int | None, key: str, fingerprint: bytes, answer: bytes) -> None:
        self.kept[organisation_id, key] = Replay(fingerprint=fingerprint, answer=answer)


class View(msgspec.Struct):
    id: str
    status: str


class DeskUnderWay:
    """A submission of `DeskIngest` in a task."""

    def __init__(self, submitting: Coroutine[Any, Any, Submitted], done: Callable[..., None]) -> None:
        self._done = done
        self._task = asyncio.create_task(submitting)
        self._task.add_done_callback(self._tell)

    def _tell(self, task: asyncio.Task[Submitted]) -> None:
        if not task.cancelled():
            self._done(task.exception() or task.result())

    def give_up(self) -> None:
        self._task.remove_done_callback(self._tell)
        self._task.cancel()


class DeskIngest:
    """Accepts every number that begins with "+", and remembers what it answered to which key."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self.accepted: list[tuple[int, str]] = []
        self.answers: dict[tuple[int, str], tuple[bytes, bytes]] = {}
        # Raised by the next submissions, when set.
        self.failure: Exception | None = None
        # Submissions wait for it; `entered` is set when one does.
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()

    def begin(
        self,
        organisation_id: int,
        drafts: Sequence[Draft],
        done: Callable[[Submitted | Exception], None],
        **more: Any,
    ) -> DeskUnderWay:
        return DeskUnderWay(self.submit(organisation_id, drafts, **more), done)

    async def submit(
        self,
        organisation_id: int,
        drafts: Sequence[Draft],
        *,
        render: Render,
        idempotency_key: str = "",
        fingerprint: bytes = b"",
    ) -> Submitted:
        self.entered.set()
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        known = self.answers.get((organisation_id, idempotency_key)) if idempotency_key else None
        if known is not None:
            if known[0] != fingerprint:
                raise Refusal("idempotency_key_reused", 409, "Another request.", "Idempotency-Key")
            return Submitted(known[1], replayed=True)
        outcomes = [self._outcome(draft) for draft in drafts]
        answer = render(outcomes)
        self.accepted += [(organisation_id, o.id) for o in outcomes if isinstance(o, Accepted)]
        if idempotency_key:
            self.answers[organisation_id, idempotency_key] = fingerprint, answer
        return Submitted(answer, replayed=False)

    def _outcome(self, draft: Draft) -> Outcome:
        if isinstance(draft, Refusal):
            return draft
        if not draft.to.startswith("+"):
            return Refusal("invalid_field", 422, '`to` must begin with "+".', "to")
        if draft.text == "too dear":
            return Refusal("insufficient_credit", 402, "The message costs more than is left.")
        message_id = f"0190a0b0-0000-7000-8000-{next(self._numbers):012}"
        return Accepted(
            id=message_id,
            status="accepted",
            queue=draft.queue or QUEUE_DEFAULT,
            segments=1,
            encoding="GSM-7",
            units=1,
        )


class Api:
    """One running API and a client of it that presents an organisation's key."""

    def __init__(
        self, services: Services, server: Server, port: int, session: aiohttp.ClientSession, api_key: str
    ) -> None:
        self.services = services
        self.server = server
        self.port = port
        self.session = session
        self.api_key = api_key
        self.ingest = services.ingest

    @property
    def behind_admin(self) -> AdminServices:
        """What the admin calls use."""
        assert self.services.admin is not None
        return self.services.admin

    async def ask(
        self, method: str, path: str, body: object = None, *, key: str | None = None, **headers: str
    ) -> tuple[int, Mapping[str, str], Any]:
        """Status, headers and decoded body. `body` is sent as it is when bytes, else as JSON."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        token = self.api_key if key is None else key
        if token:
            headers.setdefault("Authorization", f"Bearer {token}")
        data = body if body is None or isinstance(body, bytes) else msgspec.json.encode(body)
        url = f"http://127.0.0.1:{self.port}{path}"
        async with self.session.request(method, url, data=data, headers=headers) as response:
            reply = await response.read()
            return response.status, response.headers, msgspec.json.decode(reply) if reply else None

    async def admin(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        status, _, reply = await self.ask(method, f"/v1/admin{path}", body, key=ADMIN_KEY, **headers)
        return status, reply

    async def raw(self, request: bytes) -> bytes:
        """The bytes of one connection's answers to these bytes, until it closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        async with asyncio.timeout(60):
            answer = await reader.read()
        writer.close()
        return answer


async def until(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait for a state that no event announces."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.002)


async def _no_inbound(organisation_id: int, before: tuple[int, str], limit: int) -> list[Any]:
    return []


def recipients_of(pool: Pool, **changes: Any) -> RecipientServices:
    given: dict[str, Any] = {
        "opt_outs": OptOutBook(pool),
        "senders": SenderBook(pool),
        "inbound": Sink(),
        "inbound_page": _no_inbound,
        "inbound_routes": InboundRouteBook(pool),
        "auto_replies": AutoReplyBook(pool),
        "words": WordList(DEFAULTS),
        "now_us": lambda: time.time_ns() // 1000,
    }
    return RecipientServices(**given | changes)


async def no_report(query: ReportQuery) -> Report:
    return Report(from_time="", until_time="", time_zone=query.time_zone, complete=True, rows=[])


async def no_erasure(number: str) -> None:
    assert number.startswith("+")


async def no_plan(wish: PlanWish) -> PlanAnswer:
    raise Unavailable("There is none.")


async def none_under_way() -> int:
    return 0


@asynccontextmanager
async def no_export(query: ExportQuery) -> AsyncIterator[AsyncIterator[bytes]]:
    raise Unavailable("There is none.")
    yield


def books_of(directory: Directory) -> dict[str, Any]:
    """What the calls need of PostgreSQL."""
    pool = directory._pool
    return {
        "directory": directory,
        "api_keys": ApiKeyBook(pool),
        "admin_keys": AdminKeyBook(pool),
        "note_admin_key_uses": KeyUses(pool, "admin_keys").note,
        "note_key_uses": KeyUses(pool, "api_keys").note,
        "changes": Changes(pool),
        "adjust": Adjustments(pool).adjust,
        "limits": LimitBook(pool, 1_000_000),
        "recipients": recipients_of(pool),
        "unbooked": Unbooked(pool, directory._shards),
        "prices": Prices(pool),
        "routing": Routing(pool, [p.name for p in PROVIDERS]),
        "transactions": Journal(pool).transactions,
    }


async def services_with(directory: Directory, **changes: Any) -> Services:
    async def history(organisation_id: int, message_id: str) -> View | None:
        ingest = given["ingest"]
        found = (organisation_id, message_id) in ingest.accepted
        return View(message_id, "accepted") if found else None

    async def status() -> object:
        return {"node": "test", "queues": {}}

    async def backlog(queue: str) -> object:
        return {"queue": queue, "messages": 0, "organisations": []}

    async def traffic(days: int) -> object:
        return {"days": days, "busiest": []}

    async def audit(*, full: bool, timeout_s: float) -> object:
        return {"verdict": "clean", "full": full, "timeout_s": timeout_s}

    async def ready() -> dict[str, str]:
        return {"redis": "ok", "postgres": "ok"}

    async def scrape(accept: str) -> tuple[bytes, str]:
        return f"# accept {accept}".encode(), "text/plain"

    pool, nowhere = directory._pool, RedisLink("redis://127.0.0.1:1", timeout_s=5, name="none")
    given: dict[str, Any] = {
        "counts": RequestCounts(),
        "ingest": DeskIngest(),
        **books_of(directory),
        "webhooks": WebhookServices(EndpointBook(pool), RedisWebhookStreams(nowhere, nowhere), 16),
        "inbound_readers": {},
        "losses": NoLosses(),
        "dead_letters": RedisDeadLetters(nowhere, 16, lambda o: o % 16, lambda: 0),
        "nodes": NodeControl("test", RedisNodeNotes(nowhere), PostgresNodeWishes(pool), lambda: 0),
        "providers": PROVIDERS,
        "receipt_readers": {},
        "receipts": Sink(),
        "problems": Problems(),
        "provider_problems": RedisProblems(nowhere),
        "now_us": lambda: time.time_ns() // 1000,
        "history": history,
        "cancels": NoCancels(),
        "answers": DeskAnswers(),
        "lists": NoLists(),
        "batches": None,
        "status": status,
        "scrape": scrape,
        "backlog": backlog,
        "traffic": traffic,
        "reports": ReportServices(no_report, no_export, no_erasure, none_under_way),
        "audit": audit,
        "plan": no_plan,
        "ready": ready,
        "can_spend": lambda: True,
        "admin_key_sha256": api_keys.digest(ADMIN_KEY),
        "body_bytes_max": BODY_BYTES_MAX,
        "timeout_s": 10.0,
        "draining": asyncio.Event(),
    }
    given |= changes
    return Services(**_of(Services, given), admin=AdminServices(**_of(AdminServices, given)))


def _of(services: type, given: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: given[field.name] for field in fields(services) if field.name in given}


@asynccontextmanager
async def serving(
    services: Services,
    api_key: str = "",
    known: Keys | None = None,
    *,
    edge: bool | None = None,
    connections_max: int = 10_000,
) -> AsyncIterator[Api]:
    """The API on a free port, while the block runs. `edge`: as `has_edge`, for this one."""
    listener = socket.create_server(("127.0.0.1", 0))
    keys = known or Keys(services.directory, services.trusted_proxies)
    front = Edge(services, keys, connections_max) if (has_edge if edge is None else edge) else None
    server = Server(create_app(services, keys), listener, front)
    await server.start()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=90)) as session:
        try:
            yield Api(services, server, listener.getsockname()[1], session, api_key)
        finally:
            # A server that stops waits for callers that keep connections.
            await session.close()
            await server.stop(5)
