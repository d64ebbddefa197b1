"""Providers from somebody else's module: the example that is shipped, and modules that are wrong."""

from __future__ import annotations

import asyncio
import json
import os
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.config import decode
from engine.errors import ConfigError
from engine.providers import build
from engine.providers.ports import Provider
from engine.providers.problems import Problems
from engine.providers.settings import CustomSettings
from tests.providers.carrier import message, verdicts
from tests.providers.sink import Sink

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "providers"

in_module = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


def documented() -> CustomSettings:
    """The section in the example's own documentation, read as the engine reads it."""
    text = (EXAMPLES / "sms_to_file.py").read_text().partition("    [[providers]]")[2].partition("\n\n")[0]
    settings = decode("[[providers]]" + textwrap.dedent(text), "example").providers[0]
    assert isinstance(settings, CustomSettings)
    return settings


def settings(path: Path, /, **options: Any) -> CustomSettings:
    asked = documented()
    return msgspec.structs.replace(
        asked, options={**asked.options, "path": str(path), **options}, timeout_s=2.0
    )


@asynccontextmanager
async def running(made: CustomSettings, sink: Sink) -> AsyncIterator[Provider]:
    provider = build(made, sink, Problems())
    await provider.start()
    try:
        yield provider
    finally:
        await provider.stop()


@in_module
async def test_the_example_does_what_its_documentation_says(tmp_path: Path) -> None:
    path, sink = tmp_path / "messages.jsonl", Sink()
    many = [message(n, f"سلام {n}\n") for n in range(500)]
    async with running(settings(path), sink) as provider:
        assert provider.name == "file"
        found = await verdicts(provider, many)
        assert {(v.kind, v.provider, v.code) for v in found} == {("accepted", "file", "written")}
        assert [v.provider_message_id for v in found] == [one.id for one in many]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["text"] for line in lines] == [one.text for one in many]
    assert lines[0] == {"id": many[0].id, "to": many[0].to, "from": "Demo", "text": many[0].text}
    assert {(r.state, r.message_id) for r in sink.receipts} == {("delivered", one.id) for one in many}
    assert len(sink.receipts) == 500


@in_module
async def test_receipts_that_are_not_kept_are_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = Sink()
    sink.keeps = False
    async with running(settings(tmp_path / "m"), sink) as provider:
        monkeypatch.setattr("sms_to_file.RECEIPT_RETRY_S", 0.01)
        await verdicts(provider, [message(1)])
        await asyncio.wait_for(sink.arrived.wait(), 60)
        assert sink.receipts == []
        sink.keeps = True
        async with asyncio.timeout(60):
            while not sink.receipts:
                sink.arrived.clear()
                await sink.arrived.wait()
    assert [r.message_id for r in sink.receipts] == [message(1).id]


@in_module
async def test_a_disk_that_fails_or_hangs_costs_no_verdict(tmp_path: Path) -> None:
    async with running(settings(tmp_path / "no" / "such" / "place"), Sink()) as provider:
        assert [(v.kind, v.code) for v in await verdicts(provider, [message(1)])] == [
            ("temporary", "No such file or directory")
        ]
    os.mkfifo(tmp_path / "pipe")  # opening it hangs until somebody reads
    async with running(settings(tmp_path / "pipe"), Sink()) as provider:
        first = asyncio.create_task(verdicts(provider, [message(1)]))
        assert [(v.kind, v.code) for v in await first] == [("unknown", "timeout")]
        assert [(v.kind, v.code) for v in await verdicts(provider, [message(2)])] == [
            ("temporary", "disk-hangs")
        ]
        reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)  # and the thread ends
    os.close(reading)


@in_module
async def test_stopping_gives_every_message_its_verdict(tmp_path: Path) -> None:
    provider = build(settings(tmp_path / "m"), Sink(), Problems())
    await provider.start()
    waiting = asyncio.create_task(verdicts(provider, [message(n) for n in range(50)]))
    await asyncio.sleep(0)
    await provider.stop()
    assert {v.kind for v in await waiting} == {"accepted"}
    assert [v.code for v in await verdicts(provider, [message(99)])] == ["stopped"]
    await provider.stop()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"path": ""}, "providers.file.options.path must be the path of a file."),
        ({"colour": 1}, "providers.file.options.colour is not known: there are path, receipts."),
    ],
)
def test_the_examples_own_mistakes_are_told_as_they_are(
    tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        build(settings(tmp_path / "m", **options), Sink(), Problems())
    assert str(refused.value) == sentence


STRANGE_MODULE = """
import asyncio
from engine.records import Verdict

class Strange:
    def __init__(self, name): self.name = name
    async def start(self): ...
    async def stop(self): ...
    def submit(self, message, done):
        given = {
            "nothing": None,
            "kind": Verdict(kind="perhaps", provider=self.name),
            "type": Verdict(kind="accepted", provider=self.name, provider_message_id=7),
            "name": Verdict(kind="accepted", provider="other"),
            "good": Verdict(kind="accepted", provider=self.name, code="ok"),
        }
        asyncio.get_running_loop().call_soon(done, given[message.text])

def strange(*, name, **_): return Strange(name)
"""


async def test_a_verdict_that_is_none_costs_its_message_an_attempt_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strange_module.py").write_text(STRANGE_MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    async with running(CustomSettings(name="acme", factory="strange_module:strange"), Sink()) as provider:
        texts = ("nothing", "kind", "type", "name", "good")
        found = await verdicts(provider, [message(n, text) for n, text in enumerate(texts)])
    assert [(v.kind, v.provider, v.code) for v in found] == [
        *[("unknown", "acme", "fault")] * 4,
        ("accepted", "acme", "ok"),
    ]


WRONG_MODULE = """
class Lacking:
    name = "acme"
    async def start(self): ...
    async def stop(self): ...

class Whole(Lacking):
    def submit(self, message, done): ...

class Blocking(Whole):
    def start(self): ...

class Waiting(Whole):
    async def submit(self, message, done): ...

class Misnamed(Whole):
    name = "other"

def lacking(**_): return Lacking()
def blocking(**_): return Blocking()
def waiting(**_): return Waiting()
def misnamed(**_): return Misnamed()
def nothing(**_): return None
def fails(**_): raise RuntimeError("no\\nlicence")
def other_arguments(name): return Whole()
number = 7
"""


@pytest.mark.parametrize(
    ("factory", "sentence"),
    [
        (
            "no_such_module:f",
            "the module no_such_module cannot be imported: ModuleNotFoundError: No module named",
        ),
        (
            "broken_module:f",
            "the module broken_module cannot be imported: ZeroDivisionError: division by zero.",
        ),
        ("unreadable_module:f", "the module unreadable_module cannot be imported: SyntaxError: "),
        ("wrong_module:absent", "the module wrong_module has no function absent."),
        ("wrong_module:number", "the module wrong_module has no function number."),
        ("wrong_module:fails", "wrong_module:fails failed: RuntimeError: no licence."),
        ("wrong_module:other_arguments", "wrong_module:other_arguments failed: TypeError: "),
        (
            "wrong_module:nothing",
            "what wrong_module:nothing returned is no provider: it has no method start.",
        ),
        (
            "wrong_module:lacking",
            "what wrong_module:lacking returned is no provider: it has no method submit.",
        ),
        (
            "wrong_module:blocking",
            "what wrong_module:blocking returned is no provider: its start must be async.",
        ),
        (
            "wrong_module:waiting",
            "what wrong_module:waiting returned is no provider: its submit must not be async",
        ),
        (
            "wrong_module:misnamed",
            "what wrong_module:misnamed returned is no provider: its name must be 'acme'.",
        ),
    ],
)
def test_a_module_that_is_wrong_is_told_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factory: str, sentence: str
) -> None:
    (tmp_path / "wrong_module.py").write_text(WRONG_MODULE)
    (tmp_path / "broken_module.py").write_text("1 / 0")
    (tmp_path / "unreadable_module.py").write_text("def (")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError) as refused:
        build(CustomSettings(name="acme", factory=factory), Sink(), Problems())
    assert str(refused.value).startswith(f"providers.acme.factory: {sentence}")
    assert str(refused.value).endswith(".")
    assert "\n" not in str(refused.value)
