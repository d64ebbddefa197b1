"""Which action answers which admin call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from engine.api.admin import AUDIT_S_MAX, Admin
from engine.api.dead_letters import DeadLetters
from engine.api.guard import Action
from engine.api.limits import OrganisationLimits
from engine.api.ports import AdminServices
from engine.api.prices import PriceTables
from engine.api.queues import QueuePauses
from engine.api.routes import Providers, Routes
from engine.api.unbooked import REBUILD_S, UnbookedUsage


class AdminRoute(NamedTuple):
    """One admin call."""

    method: str
    # Below /v1/admin.
    path: str
    action: Action
    # For one that keeps a deadline of its own: what it is given, seconds. It is of use to its caller alone,
    # and ends when that one hangs up.
    timeout_s: float | None = None


def admin_routes(services: AdminServices) -> list[AdminRoute]:
    """All admin calls."""
    return [
        *_of_organisations(services),
        *_of_money(services),
        *_of_delivery(services),
        *_of_the_engine(services),
    ]


def _of_organisations(services: AdminServices) -> Iterator[AdminRoute]:
    admin, limits = Admin(services), OrganisationLimits(services)
    all_of_them, path = "/organisations", "/organisations/{organisation_id}"
    yield AdminRoute("GET", all_of_them, admin.organisations)
    yield AdminRoute("POST", all_of_them, admin.create_organisation)
    yield AdminRoute("GET", path, limits.show_organisation)
    yield AdminRoute("PATCH", path, admin.change_organisation)
    yield AdminRoute("GET", f"{path}/limits", limits.show)
    yield AdminRoute("PATCH", f"{path}/limits", limits.change)
    yield AdminRoute("POST", f"{path}/pause", limits.pause)
    yield AdminRoute("POST", f"{path}/resume", limits.resume)
    yield AdminRoute("GET", f"{path}/keys", admin.keys)
    yield AdminRoute("POST", f"{path}/keys", admin.create_key)
    yield AdminRoute("DELETE", f"{path}/keys/{{key_id}}", admin.revoke_key)


def _of_money(services: AdminServices) -> Iterator[AdminRoute]:
    admin, unbooked, prices = Admin(services), UnbookedUsage(services), PriceTables(services)
    path = "/organisations/{organisation_id}"
    yield AdminRoute("GET", f"{path}/balance", admin.balance)
    yield AdminRoute("GET", f"{path}/transactions", admin.transactions)
    yield AdminRoute("POST", f"{path}/top-ups", admin.top_up)
    yield AdminRoute("GET", "/unbooked", unbooked.sums)
    yield AdminRoute("POST", "/unbooked/{organisation_id}/book", unbooked.book)
    yield AdminRoute("GET", "/losses", unbooked.losses)
    yield AdminRoute("POST", "/losses/rebuild", unbooked.rebuild, timeout_s=REBUILD_S + 10.0)
    yield AdminRoute("GET", "/prices", prices.show)
    yield AdminRoute("PUT", "/prices", prices.replace)


def _of_delivery(services: AdminServices) -> Iterator[AdminRoute]:
    routes, providers, letters = Routes(services), Providers(services), DeadLetters(services)
    admin, pauses = Admin(services), QueuePauses(services)
    yield AdminRoute("GET", "/routes", routes.show)
    yield AdminRoute("PUT", "/routes", routes.replace)
    yield AdminRoute("GET", "/providers", providers.show_all)
    yield AdminRoute("GET", "/providers/{name}", providers.show)
    yield AdminRoute("PUT", "/providers/{name}", providers.change)
    yield AdminRoute("GET", "/providers/{name}/problems", providers.problems)
    yield AdminRoute("GET", "/problems", providers.all_problems)
    yield AdminRoute("POST", "/providers/{name}/pause", providers.pause)
    yield AdminRoute("POST", "/providers/{name}/resume", providers.resume)
    yield AdminRoute("GET", "/queues/{queue}", admin.queue)
    yield AdminRoute("POST", "/queues/{queue}/pause", pauses.pause)
    yield AdminRoute("POST", "/queues/{queue}/resume", pauses.resume)
    yield AdminRoute("GET", "/dead-letters", letters.show_all)
    yield AdminRoute("GET", "/dead-letters/{letter_id}", letters.show)
    yield AdminRoute("POST", "/dead-letters/{letter_id}/replay", letters.replay)
    yield AdminRoute("POST", "/dead-letters/{letter_id}/drop", letters.drop)


def _of_the_engine(services: AdminServices) -> Iterator[AdminRoute]:
    admin = Admin(services)
    yield AdminRoute("GET", "/status", admin.status)
    yield AdminRoute("GET", "/audit", admin.audit, timeout_s=AUDIT_S_MAX + 10.0)
