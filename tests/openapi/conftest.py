"""One engine, as users run it, for what is tried of its OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.openapi.documented import Documented
from tests.system.conftest import start_engine


@pytest.fixture(scope="session")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Documented]:
    engine = start_engine(tmp_path_factory.mktemp("openapi") / "data")
    yield Documented.of(engine)
    assert engine.stop() == 0, engine.log.read_text()[-3000:]
