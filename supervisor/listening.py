"""The sockets that the engine listens on: the public one, and that of the admin calls."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from engine.config import Config, Role
from engine.config.addresses import UNIX, split_listen
from engine.errors import ConfigError

# Connections that wait to be accepted while the processes are busy.
_BACKLOG = 4096


def listeners(
    config: Config, inherited: Mapping[str, socket.socket], stack: ExitStack
) -> dict[Role, socket.socket]:
    """The socket of each role that has one; `stack` closes them, and removes what was made for them.

    `inherited`: those that systemd hands over, by their names. Raises ConfigError.
    """
    public = inherited.get("") or listen(config.http.listen, "The API", "with --listen")
    stack.callback(public.close)
    admin = inherited.get("admin")
    if admin is None and config.admin_listen.startswith(UNIX):
        path = Path(config.admin_listen.removeprefix(UNIX))
        admin = _listen_unix(path, config.admin.socket_group)
        stack.callback(path.unlink, missing_ok=True)
    elif admin is None:
        admin = listen(config.admin_listen, "The admin API", "in `[admin] listen` or with --admin-listen")
    stack.callback(admin.close)
    return {"ingest": public, "admin": admin}


def listen(address: str, who: str, where: str) -> socket.socket:
    """A listening socket on HOST:PORT (port 0: a free one).

    Raises ConfigError: `who` cannot listen there, and `where` says how to name another address.
    """
    host, port = split_listen(address) or ("", 0)
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            # Old connections of an earlier run do not matter; another process that listens does.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as e:
        reason = (e.strerror or str(e)).lower()
        raise ConfigError(f"{who} cannot listen on {address}: {reason}; name another address {where}.") from e
    return listener


def _listen_unix(path: Path, group: str) -> socket.socket:
    """A listening Unix socket for our user and, when it is given, a group. Raises ConfigError.

    One that a killed engine left there is replaced; one that somebody listens on is not.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _forget_dead(path)
        # The file is made by `bind` with the rights that the mask leaves: nobody else can connect meanwhile.
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        if group:
            shutil.chown(path, group=group)
            path.chmod(0o660)
        listener.listen(_BACKLOG)
    except LookupError as e:
        listener.close()
        path.unlink(missing_ok=True)
        raise ConfigError(f"admin.socket_group must be a group of this machine, not {group!r}.") from e
    except OSError as e:
        listener.close()
        reason = (e.strerror or str(e)).lower()
        raise ConfigError(
            f"The admin API cannot listen on {UNIX}{path}: {reason}; name another place in `[admin] listen`."
        ) from e
    return listener


def _forget_dead(path: Path) -> None:
    """Remove a Unix socket that nobody listens on. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            try:
                asking.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()


def reach(listener: socket.socket) -> str:
    """The URL, without a path, at which this machine reaches the listener; unix:/PATH for a Unix socket."""
    if listener.family == socket.AF_UNIX:
        return f"{UNIX}{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
