"""The tests here run on the loop of production; those of the transports on asyncio's own too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import uvloop

_TRANSPORTS = {
    "http/test_simulated.py",
    "http_client/test_pool.py",
    "http_client/test_pool_limits.py",
    "smpp/test_binding.py",
    "smpp/test_provider.py",
}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    both = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return (
        both
        if item.path.relative_to(Path(__file__).parent).as_posix() in _TRANSPORTS
        else {"uvloop": uvloop.new_event_loop}
    )
