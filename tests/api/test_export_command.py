"""`smsengine export`: a whole file or none, standard output, and what is refused."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from engine.api.report_ports import ReportServices
from engine.errors import Unavailable
from engine.organisations import NewOrganisation
from engine.stores.clickhouse.export import ExportQuery
from engine.stores.postgres.directory import Directory
from supervisor import cli
from tests.api.world import ADMIN_KEY, Api, no_erasure, no_report, none_under_way, services_with, serving

PART = b"1\r\n" * 30_000


class Export:
    """Writes so many parts, and fails then if told so."""

    def __init__(self) -> None:
        self.parts, self.fails = 3, False
        self.asked: list[ExportQuery] = []

    @asynccontextmanager
    async def messages(self, query: ExportQuery) -> AsyncIterator[AsyncIterator[bytes]]:
        self.asked.append(query)
        yield self._parts()

    async def _parts(self) -> AsyncIterator[bytes]:
        for _ in range(self.parts):
            yield PART
        if self.fails:
            raise Unavailable("It broke off.")


@pytest.fixture
def source() -> Export:
    return Export()


@pytest.fixture
async def api(directory: Directory, source: Export) -> AsyncIterator[Api]:
    reports = ReportServices(no_report, source.messages, no_erasure, none_under_way)
    async with serving(await services_with(directory, reports=reports)) as running:
        yield running


async def export(api: Api, *words: str) -> int:
    line = ["export", *words, "--url", f"http://127.0.0.1:{api.port}", "--admin-key", ADMIN_KEY]
    return await asyncio.to_thread(cli.run, line)


async def test_a_whole_file_has_its_name_and_what_breaks_off_changes_nothing(
    api: Api, source: Export, acme: NewOrganisation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "november.parquet"
    times = ("--since", "2026-11-01T10:07:00Z", "--until", "2026-11-02T10:07:00Z")
    assert await export(api, str(acme.id), *times, "--rows", "events", "-o", str(file)) == 0
    assert file.read_bytes() == PART * 3
    assert (file.stat().st_mode & 0o777, os.listdir(tmp_path)) == (0o600, [file.name])
    [query] = source.asked
    assert (query.organisation_id, query.format, query.rows) == (acme.id, "parquet", "events")
    assert (query.from_s % 900, query.until_s - query.from_s) == (0, 86_400 + 900)
    assert capsys.readouterr().out == f"{file}: {3 * len(PART):,} bytes\n"

    source.parts, source.fails = 2, True
    assert await export(api, str(acme.id), "-o", str(file)) == 2
    assert "broke off" in capsys.readouterr().err
    assert (file.read_bytes(), os.listdir(tmp_path)) == (PART * 3, [file.name])


async def test_a_file_that_cannot_be_written_is_named(
    api: Api, acme: NewOrganisation, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await export(api, str(acme.id), "-o", "/dev/full") == 2
    said = capsys.readouterr().err
    assert said == "smsengine: --output /dev/full cannot be written: no space left on device.\n"


async def test_a_pipe_is_written_to_and_stays_one(api: Api, acme: NewOrganisation, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = asyncio.create_task(asyncio.to_thread(pipe.read_bytes))
    assert await export(api, str(acme.id), "-o", str(pipe)) == 0
    assert await reader == PART * 3
    assert (pipe.is_fifo(), os.listdir(tmp_path)) == (True, [pipe.name])


async def test_standard_output_gets_the_rows_and_a_code_that_says_whether_they_are_all(
    api: Api, source: Export, acme: NewOrganisation, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert await export(api, str(acme.id), "--format", "jsonl") == 0
    printed = capfdbinary.readouterr()
    assert (printed.out, printed.err, source.asked[0].format) == (PART * 3, b"", "jsonl")
    source.fails = True
    # The server, which is in this process, says so in its log.
    with capture_logs():
        assert await export(api, str(acme.id)) == 2
    printed = capfdbinary.readouterr()
    assert (printed.out, printed.err.count(b"\n")) == (PART * 3, 1)


async def test_what_cannot_be_exported_is_told_in_a_sentence_and_leaves_no_file(
    api: Api, acme: NewOrganisation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "a.csv")
    for words, part in (
        ([str(acme.id), "--queue", "slow", "-o", file], "--queue must be express or normal"),
        ([str(acme.id), "--since", "yesterday"], "--since must be a time"),
        ([str(acme.id), "-o", str(tmp_path / "none" / "a.csv")], "cannot be written: no such file"),
        ([str(acme.id), "-o", str(tmp_path)], f"--output {tmp_path} cannot be written: is a directory.\n"),
        ([str(acme.id), "--json"], "--output"),
        (["999999"], "There is no organisation with this id."),
        (["999999", "-o", file], "There is no organisation with this id."),
    ):
        assert await export(api, *words) == 2
        assert part in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


async def test_it_ends_when_nobody_reads_any_more(
    api: Api, source: Export, acme: NewOrganisation, tmp_path: Path
) -> None:
    source.parts = 100
    command = (
        f"{sys.executable} -m supervisor.cli export {acme.id} --url http://127.0.0.1:{api.port} "
        f"--admin-key {ADMIN_KEY} 2> {tmp_path}/err; echo $? > {tmp_path}/code"
    )
    shell = await asyncio.create_subprocess_shell(
        f"({command}) | head -c 10", stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    printed, _ = await shell.communicate()
    assert printed == PART[:10]
    assert ((tmp_path / "err").read_text(), (tmp_path / "code").read_text()) == ("", "0\n")
