"""The settings of the API."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class Http(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[http]`: the API."""

    # HOST:PORT to listen on.
    listen: str = "127.0.0.1:8080"
    # Largest request body, bytes.
    body_bytes_max: Annotated[int, Meta(ge=1024, le=64 * 1024 * 1024)] = 4 * 1024 * 1024
    # Most connections of one process. When there are more, those that have been idle longest are closed.
    # Fewer where the process may not have so many descriptors (`ulimit -n`, LimitNOFILE=).
    connections_max: Annotated[int, Meta(ge=16, le=1_000_000)] = 10_000
    # A request that is not answered within this time gets 503, seconds.
    timeout_s: Annotated[float, Meta(ge=0.1, le=600)] = 10.0
    # After a drain of the node its API says on /readyz that it is not ready, and goes on to take messages for
    # so long, seconds: a load balancer needs some time to notice. Then it answers them 503.
    drain_notice_s: Annotated[float, Meta(ge=0, le=600)] = 10.0
    # File with the key of the admin calls; "" means `secrets/admin_key` in the data directory.
    admin_key_file: str = ""
    # The networks of the proxies before the API: when one of them is at the other end of a connection,
    # `Forwarded` or `X-Forwarded-For` says who the client is.
    trusted_proxies: list[str] = []
