"""The console at /console of the operators' address: which action answers which of its paths."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from aiohttp import web

from engine.api.app import OWN_TIMES, Actions, AdminCallTable, own_actions, refuse_paths, route_calls
from engine.api.auth import Keys
from engine.api.description import like
from engine.api.guard import CALLED_PATH, Action
from engine.api.last_uses import LastUses
from engine.api.ports import AdminServices
from engine.api.response import Response
from engine.console.access import PATH, Access, dressed
from engine.console.live import LiveCall
from engine.console.login import SessionCalls
from engine.console.pages import FOLDER, Pages
from engine.console.sessions import Sessions, SessionStore

# In front of the path of a call that comes with a session in place of a key.
API = f"{PATH}/api"


def console(
    services: AdminServices, store: SessionStore, folder: Path = FOLDER
) -> Callable[[AdminCallTable], None]:
    """What adds the console to the admin calls (`create_admin_app`). `store` keeps its sessions; `folder` has
    its pages."""

    def attach(table: AdminCallTable) -> None:
        sessions = Sessions(store, services.now_us)
        keys = Keys(services.directory, services.trusted_proxies)
        uses = LastUses(keys.cache, services.note_key_uses)
        access, proxies = Access(sessions), services.trusted_proxies
        logins = SessionCalls(sessions, table.calls, keys, services.directory, proxies)
        router, exchanges = table.app.router, table.exchanges
        route_calls(router, logins.actions(), exchanges, dress=dressed)
        admin = _under_api(table.actions, access.entered("admin"))
        live: Actions = {f"{PATH}/live": {"GET": LiveCall(services, access, table.calls).show}}
        route_calls(router, live, exchanges, dress=dressed)
        times = {f"{API}{path}": time_s for path, time_s in table.times.items()}
        route_calls(router, admin, exchanges, times, dressed)
        own = _under_api(own_actions(services, keys), access.entered("organisation"))
        times = {f"{API}{path}": time_s for path, time_s in OWN_TIMES.items()}
        route_calls(router, own, exchanges, times, dressed)
        refuse_paths(router, exchanges, API, dressed)
        route_calls(router, Pages(folder).actions(), exchanges, dress=dressed)
        refuse_paths(router, exchanges, PATH, dressed)

        async def own_keys(_: web.Application) -> AsyncIterator[None]:
            noting = asyncio.create_task(uses.run(), name="last uses of API keys")
            yield
            noting.cancel()
            await uses.flush()
            await keys.close()

        table.app.cleanup_ctx.append(own_keys)

    return attach


def _under_api(actions: Actions, entered: Callable[[Action], Action]) -> Actions:
    return {
        f"{API}{path}": {method: like(action, entered(_as_called(action))) for method, action in of.items()}
        for path, of in actions.items()
    }


def _as_called(action: Action) -> Action:
    """The action of a call under its own path: what makes a repetition is the same by the console as by a
    key."""

    async def called(request: web.Request) -> Response:
        request[CALLED_PATH] = request.path.removeprefix(API)
        return await action(request)

    return called
