"""Which action answers which admin call."""

from __future__ import annotations

from collections.abc import Iterator

from engine.api.adjustments import AdjustmentCalls
from engine.api.admin import AUDIT_S_MAX, Admin
from engine.api.admin_keys import AdminKeyCalls
from engine.api.admin_route import AdminRoute
from engine.api.auto_replies import AutoReplies
from engine.api.dead_letters import DeadLetters
from engine.api.erasures import Erasures
from engine.api.exports import AllExports
from engine.api.inbound import InboundCalls
from engine.api.key_networks import KeyNetworks
from engine.api.limits import OrganisationLimits
from engine.api.message_lists import AllMessages
from engine.api.nodes import NodeCalls
from engine.api.opt_outs import OptOuts
from engine.api.plans import CALL_S, PlanCalls
from engine.api.ports import AdminServices
from engine.api.prices import PriceTables
from engine.api.queues import QueuePauses
from engine.api.reports import REPORT_S, AllReports
from engine.api.routes import Providers, Routes
from engine.api.senders import SenderCalls
from engine.api.traffic import TRAFFIC_S, TrafficReport
from engine.api.unbooked import REBUILD_S, UnbookedUsage
from engine.api.webhooks import admin_webhooks

_ROOT = "/v1/admin"


def admin_routes(services: AdminServices) -> list[AdminRoute]:
    """All admin calls."""
    return [
        *_of_organisations(services),
        *_of_money(services),
        *_of_delivery(services),
        *_of_nodes(services),
        *_of_the_engine(services),
    ]


def _of_organisations(services: AdminServices) -> Iterator[AdminRoute]:
    admin, limits = Admin(services), OrganisationLimits(services)
    all_of_them = f"{_ROOT}/organisations"
    path = f"{all_of_them}/{{organisation_id}}"
    yield AdminRoute("GET", all_of_them, admin.organisations, "read")
    yield AdminRoute("POST", all_of_them, admin.create_organisation, "money", secret=True)
    yield AdminRoute("GET", path, limits.show_organisation, "read")
    yield AdminRoute("PATCH", path, admin.change_organisation, "money")
    yield AdminRoute("GET", f"{path}/limits", limits.show, "read")
    yield AdminRoute("PATCH", f"{path}/limits", limits.change, "operate")
    yield AdminRoute("POST", f"{path}/pause", limits.pause, "operate")
    yield AdminRoute("POST", f"{path}/resume", limits.resume, "operate")
    senders = SenderCalls(services)
    yield AdminRoute("GET", f"{path}/senders", senders.show, "read")
    yield AdminRoute("PATCH", f"{path}/senders", senders.change, "operate")
    inbound = InboundCalls(services)
    yield AdminRoute("GET", f"{_ROOT}/inbound-messages", inbound.show, "read")
    yield AdminRoute("POST", f"{_ROOT}/inbound-messages", inbound.write, "operate", outside=True)
    yield AdminRoute("GET", f"{_ROOT}/inbound-routes", inbound.show_routes, "read")
    yield AdminRoute("PUT", f"{_ROOT}/inbound-routes", inbound.put_route, "operate")
    yield AdminRoute("POST", f"{_ROOT}/inbound-routes/remove", inbound.remove_route, "operate")
    yield AdminRoute("GET", f"{_ROOT}/destinations", senders.show_destinations, "read")
    yield AdminRoute("PUT", f"{_ROOT}/destinations", senders.replace_destinations, "operate")
    yield from OptOuts(services).of_operators(f"{path}/opt-outs")
    messages = AllMessages(services)
    yield AdminRoute("GET", f"{path}/messages", messages.page, "read")
    yield AdminRoute("GET", f"{path}/messages/{{id}}", messages.message, "read")
    yield from AutoReplies(services).of_operators(f"{path}/auto-replies")
    yield AdminRoute("GET", f"{path}/keys", admin.keys, "read")
    yield AdminRoute("POST", f"{path}/keys", admin.create_key, "money", secret=True)
    yield AdminRoute("DELETE", f"{path}/keys/{{key_id}}", admin.revoke_key, "money")
    yield AdminRoute("PATCH", f"{path}/keys/{{key_id}}", KeyNetworks(services).change, "money")
    yield AdminRoute("POST", f"{path}/keys/{{key_id}}/rotate", admin.rotate_key, "money", secret=True)
    yield from admin_webhooks(services, path)


def _of_money(services: AdminServices) -> Iterator[AdminRoute]:
    admin, unbooked, prices = Admin(services), UnbookedUsage(services), PriceTables(services)
    path = f"{_ROOT}/organisations/{{organisation_id}}"
    yield AdminRoute("GET", f"{path}/balance", admin.balance, "read")
    yield AdminRoute("GET", f"{path}/transactions", admin.transactions, "read")
    yield AdminRoute("POST", f"{path}/top-ups", admin.top_up, "money")
    yield AdminRoute("POST", f"{path}/adjustments", AdjustmentCalls(services).adjust, "money")
    yield AdminRoute("GET", f"{_ROOT}/unbooked", unbooked.sums, "read")
    yield AdminRoute("POST", f"{_ROOT}/unbooked/{{organisation_id}}/book", unbooked.book, "money")
    yield AdminRoute("GET", f"{_ROOT}/losses", unbooked.losses, "read")
    yield AdminRoute(
        "POST", f"{_ROOT}/losses/rebuild", unbooked.rebuild, "money", outside=True, timeout_s=REBUILD_S + 10.0
    )
    yield AdminRoute("GET", f"{_ROOT}/prices", prices.show, "read")
    yield AdminRoute("PUT", f"{_ROOT}/prices", prices.replace, "money")


def _of_delivery(services: AdminServices) -> Iterator[AdminRoute]:
    routes, providers, letters = Routes(services), Providers(services), DeadLetters(services)
    admin, pauses = Admin(services), QueuePauses(services)
    yield AdminRoute("GET", f"{_ROOT}/routes", routes.show, "read")
    yield AdminRoute("PUT", f"{_ROOT}/routes", routes.replace, "operate")
    yield AdminRoute("GET", f"{_ROOT}/providers", providers.show_all, "read")
    yield AdminRoute("GET", f"{_ROOT}/providers/{{name}}", providers.show, "read")
    yield AdminRoute("PUT", f"{_ROOT}/providers/{{name}}", providers.change, "operate")
    yield AdminRoute("GET", f"{_ROOT}/providers/{{name}}/problems", providers.problems, "read")
    yield AdminRoute("GET", f"{_ROOT}/problems", providers.all_problems, "read")
    yield AdminRoute("POST", f"{_ROOT}/providers/{{name}}/pause", providers.pause, "operate")
    yield AdminRoute("POST", f"{_ROOT}/providers/{{name}}/resume", providers.resume, "operate")
    yield AdminRoute("GET", f"{_ROOT}/queues/{{queue}}", admin.queue, "read")
    yield AdminRoute("POST", f"{_ROOT}/queues/{{queue}}/pause", pauses.pause, "operate")
    yield AdminRoute("POST", f"{_ROOT}/queues/{{queue}}/resume", pauses.resume, "operate")
    yield AdminRoute("POST", f"{_ROOT}/queues/{{queue}}/drain", pauses.drain, "operate")
    yield AdminRoute("GET", f"{_ROOT}/dead-letters", letters.show_all, "read")
    yield AdminRoute("GET", f"{_ROOT}/dead-letters/{{letter_id}}", letters.show, "read")
    yield AdminRoute(
        "POST", f"{_ROOT}/dead-letters/{{letter_id}}/replay", letters.replay, "operate", outside=True
    )
    yield AdminRoute(
        "POST", f"{_ROOT}/dead-letters/{{letter_id}}/drop", letters.drop, "operate", outside=True
    )


def _of_nodes(services: AdminServices) -> Iterator[AdminRoute]:
    nodes, path = NodeCalls(services), f"{_ROOT}/nodes/{{name}}"
    yield AdminRoute("GET", f"{_ROOT}/nodes", nodes.show_all, "read")
    yield AdminRoute("POST", f"{path}/drain", nodes.drain, "operate")
    yield AdminRoute("POST", f"{path}/resume", nodes.resume, "operate")
    yield AdminRoute("POST", f"{_ROOT}/queues/{{queue}}/scale", nodes.scale, "operate")


def _of_the_engine(services: AdminServices) -> Iterator[AdminRoute]:
    admin, keys = Admin(services), AdminKeyCalls(services)
    yield AdminRoute("GET", f"{_ROOT}/admin-keys", keys.show_all, "read")
    yield AdminRoute("POST", f"{_ROOT}/admin-keys", keys.create, "all", secret=True)
    yield AdminRoute("DELETE", f"{_ROOT}/admin-keys/{{key_id}}", keys.revoke, "all")
    yield AdminRoute("PATCH", f"{_ROOT}/admin-keys/{{key_id}}", KeyNetworks(services).change_admin, "all")
    yield AdminRoute("GET", f"{_ROOT}/changes", keys.changes, "read")
    yield AdminRoute("GET", f"{_ROOT}/status", admin.status, "read")
    traffic = TrafficReport(services)
    yield AdminRoute("GET", f"{_ROOT}/traffic", traffic.show, "read", timeout_s=TRAFFIC_S + 10.0)
    plans = PlanCalls(services)
    yield AdminRoute("POST", f"{_ROOT}/plan", plans.make, "read", timeout_s=CALL_S, is_look=True)
    exports, erasures = AllExports(services), Erasures(services)
    yield AdminRoute("GET", f"{_ROOT}/erasures", erasures.show, "read", timeout_s=REPORT_S)
    yield AdminRoute("POST", f"{_ROOT}/erasures", erasures.begin, "operate", outside=True, timeout_s=REPORT_S)
    of_one = f"{_ROOT}/organisations/{{organisation_id}}/reports/messages"
    yield AdminRoute("GET", of_one, exports.messages, "read", timeout_s=REPORT_S)
    reports = AllReports(services)
    yield AdminRoute("GET", f"{_ROOT}/reports/summary", reports.summary, "read", timeout_s=REPORT_S)
    yield AdminRoute("GET", f"{_ROOT}/audit", admin.audit, "read", timeout_s=AUDIT_S_MAX + 10.0)
