"""Addresses at which a process listens, as settings name them."""

from __future__ import annotations

from engine.written_numbers import is_whole

# How the address of a Unix socket begins, and how long its path may be (unix(7)).
UNIX, _UNIX_PATH_MAX = "unix:", 107


def is_address(listen: str) -> bool:
    """Whether the admin calls can be answered there: HOST:PORT, or unix:/PATH."""
    if listen.startswith(UNIX):
        return listen.startswith(f"{UNIX}/") and len(listen) - len(UNIX) <= _UNIX_PATH_MAX
    return len(split_listen(listen)) == 2


def split_listen(listen: str) -> tuple[str, int] | tuple[()]:
    """("127.0.0.1", 8080) from "127.0.0.1:8080"; () when it is not HOST:PORT."""
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not is_whole(port) or int(port) > 65535:
        return ()
    return host.strip("[]"), int(port)
