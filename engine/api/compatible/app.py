"""The calls of other gateways that are understood, on the same way in as those of the API."""

from __future__ import annotations

import socket

from aiohttp import web

from engine.api.auth import Keys
from engine.api.compatible.kannel import Kannel
from engine.api.compatible.twilio import Twilio
from engine.api.guard import Action, Exchanges
from engine.api.ports import Services
from engine.api.problems import not_found
from engine.api.response import Response
from engine.config.addresses import split_listen
from engine.errors import ConfigError

_BACKLOG = 1024
_ANY = r"/{tail:[\s\S]*}"


def create_compatible_app(services: Services, keys: Keys) -> web.Application:
    """To be served as the public API is. `keys` belong to that."""
    app, exchanges = web.Application(), Exchanges(services)
    twilio, kannel = Twilio(services, keys), Kannel(services, keys)
    account = "/2010-04-01/Accounts/{account}/Messages"
    calls: list[tuple[str, str, Action]] = [
        ("GET", "/cgi-bin/sendsms", kannel.send),
        ("POST", "/cgi-bin/sendsms", kannel.send),
        ("POST", f"{account}.json", twilio.send),
        ("GET", f"{account}/{{message}}.json", twilio.show),
        ("*", _ANY, _refuse),
    ]
    for method, path, action in calls:
        app.router.add_route(method, path, exchanges.guard(action))
    return app


def compatible_listener(address: str) -> socket.socket:
    """A listening socket on HOST:PORT that the API processes of a node share: the kernel gives each of them
    its part of the connections. Raises ConfigError.

    A process that ends closes its own. A connection that was not accepted yet is reset then, and its caller
    connects again.
    """
    host, port = split_listen(address) or ("", 0)
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(place)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as e:
        reason = (e.strerror or str(e)).lower()
        raise ConfigError(
            f"No calls of other gateways at {address}: {reason}; name another `[compatible] listen`."
        ) from e
    return listener


async def _refuse(_: web.Request) -> Response:
    raise not_found("Here are only `/cgi-bin/sendsms` and `/2010-04-01/Accounts/.../Messages.json`.")
