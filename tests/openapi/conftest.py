"""One engine, as users run it, for what is tried of its OpenAPI document."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.openapi.documented import Documented
from tests.system.conftest import start_engine


@pytest.fixture(scope="session")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Documented]:
    folder = tmp_path_factory.mktemp("openapi")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    (folder / "engine.toml").write_text(f'[compatible]\nlisten = "{address}"\n')
    engine = start_engine(folder / "data", ("--demo", "--config", folder / "engine.toml"))
    yield Documented.of(engine, f"http://{address}")
    assert engine.stop() == 0, engine.log.read_text()[-3000:]
