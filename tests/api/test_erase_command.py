"""`smsengine erase` asks first, and waits until nothing is under way."""

from __future__ import annotations

import asyncio

import pytest

from engine.api.report_ports import ReportServices
from engine.stores.postgres.directory import Directory
from supervisor import cli
from supervisor.cli import erase
from tests.api.world import ADMIN_KEY, no_export, no_report, services_with, serving


async def test_it_waits_until_nothing_is_under_way(
    directory: Directory, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erase, "_LOOK_S", 0)
    erased: list[str] = []
    left = [0, 1, 2]

    async def begin(number: str) -> None:
        erased.append(number)

    async def under_way() -> int:
        return left.pop()

    reports = ReportServices(no_report, no_export, begin, under_way)
    async with serving(await services_with(directory, reports=reports)) as api:
        words = ["erase", "+49 1511 2345678", "--url", f"http://127.0.0.1:{api.port}"]
        words += ["--admin-key", ADMIN_KEY]
        assert await asyncio.to_thread(cli.run, words) == 2
        assert "--yes must be given" in capsys.readouterr().err
        assert erased == []
        assert await asyncio.to_thread(cli.run, [*words, "--yes"]) == 0
        assert capsys.readouterr().out == "erased\n"
    assert (erased, left) == (["+4915112345678"], [])
