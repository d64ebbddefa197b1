"""The tests here run on the loop of production; those of the transports on asyncio's own too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

_TRANSPORTS = {
    "test_http_pool",
    "test_http_pool_limits",
    "test_simulated",
    "test_smpp_binding",
    "test_smpp_provider",
}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    both = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return both if item.path.stem in _TRANSPORTS else {"uvloop": uvloop.new_event_loop}
