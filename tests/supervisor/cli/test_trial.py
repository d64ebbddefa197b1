"""`smsengine provider test` shows each step of one message, tells no secret, and takes no other receipt."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from engine.providers.smpp.body import ShortMessage, encode_short_message
from engine.providers.smpp.codes import Command, CommandStatus
from engine.providers.smpp.pdu import Pdu
from tests import warm
from tests.providers.scripted import until
from tests.providers.smpp.scripted_smsc import RECEIPT, Peer, ScriptedSmsc, smsc

TO = "+989121234567"
SMPP = """
[[providers]]
name = "acme"
type = "smpp"
host = "127.0.0.1"
port = {port}
system_id = "engine"
password = "hunter2"
{more}
"""
HTTP = """
[[providers]]
name = "acme"
type = "http"
url = "http://127.0.0.1:{port}/v1"
username = "engine"
password = "hunter2/ä"
[providers.request]
method = "POST"
path = "/{{password}}/send"
headers = {{ X-Api-Key = "hunter3" }}
auth = "basic"
body = "form"
fields = {{ to = "{{to}}", pass = "{{password}}" }}
[providers.answer]
{more}
"""


class Shown(NamedTuple):
    code: int
    steps: list[dict[str, Any]]
    out: str
    err: str

    def of(self, step: str, what: str = "") -> list[dict[str, Any]]:
        return [one for one in self.steps if one["step"] == step and what in one.get("what", "")]

    @property
    def result(self) -> str:
        return str(self.steps[-1]["detail"])


class Trials:
    """Runs the command against a configuration of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def run(self, config: str, *options: str, as_json: bool = True) -> Shown:
        file = self._folder / "smsengine.toml"
        file.write_text(config)
        command = ["provider", "test", "acme", "--to", TO, "--config", str(file), *options]
        command += ["--data-dir", str(self._folder / "none"), *(["--json"] if as_json else [])]
        argv = [sys.executable, "-m", "supervisor.cli", *command]
        done = await asyncio.to_thread(warm.run, argv, capture_output=True, text=True, timeout=60)
        steps = [json.loads(line) for line in done.stdout.splitlines()] if as_json else []
        return Shown(done.returncode, steps, done.stdout, done.stderr)


@pytest.fixture
def trials(tmp_path: Path) -> Trials:
    return Trials(tmp_path)


@pytest.fixture
async def carrier() -> AsyncIterator[ScriptedSmsc]:
    async with smsc() as carrier:
        yield carrier


def receipt_of(message_id: str, state: str = "DELIVRD", source: str = TO[1:]) -> bytes:
    text = (RECEIPT % (message_id, state)).encode()
    return encode_short_message(ShortMessage(source=source, esm_class=4, short_message=text))


async def test_every_step_of_an_accepted_message_is_shown(trials: Trials, carrier: ScriptedSmsc) -> None:
    def take(peer: Peer, submit: Pdu) -> None:
        peer.accept(submit, "00ff")
        peer.ask(Command.deliver_sm, receipt_of("255"))

    carrier.on_submit = take
    shown = await trials.run(SMPP.format(port=carrier.port, more=""), "--sender", "Acme", "--text", "Hi")
    assert (shown.code, shown.err) == (0, "")
    assert "without TLS" in shown.of("connected")[0]["detail"]
    (bind,) = shown.of("sent", "bind_transceiver")
    assert (bind["fields"]["system_id"], bind["fields"]["password"]) == ('"engine"', "***")
    (submit,) = shown.of("sent", "submit_sm")
    assert submit["hex"].endswith(b"Hi".hex())
    assert submit["fields"]["destination_addr"] == f'"{TO[1:]}"'
    assert submit["fields"]["source_addr_ton"] == "0x05 alphanumeric"
    (answer,) = shown.of("received", "submit_sm_resp")
    assert answer["fields"] == {"command_status": "0x00000000 ESME_ROK: done", "message_id": '"00ff"'}
    (understood,) = shown.of("understood")
    assert (understood["what"], understood["fields"]["id"]) == ("accepted", "00ff")
    (receipt,) = shown.of("receipt")
    assert receipt["what"] == "delivered"
    assert 'receipt_ids = "hex-to-decimal"' in receipt["detail"]
    assert shown.result == "accepted, and its receipt came"
    assert "hunter2" not in shown.out
    assert b"hunter2".hex() not in shown.out


async def test_receipts_of_other_messages_are_refused_for_now_and_show_nobody(
    trials: Trials, carrier: ScriptedSmsc
) -> None:
    asked: list[int] = []

    def take(peer: Peer, submit: Pdu) -> None:
        # Before the answer and behind it, so that the first comes while the id is not known yet.
        asked.append(peer.ask(Command.deliver_sm, receipt_of("other1", source="4915112345678")))
        peer.accept(submit, "mine")
        asked.append(peer.ask(Command.deliver_sm, receipt_of("other2", source="4915112345678")))

    carrier.on_submit = take

    async def then_ours() -> None:
        await until(lambda: bool(carrier.submits))
        await until(lambda: bool(carrier.peer.answers_to(asked[1])))
        carrier.peer.ask(Command.deliver_sm, receipt_of("mine"))

    shown, _ = await asyncio.gather(
        trials.run(SMPP.format(port=carrier.port, more=""), "--timeout", "30"), then_ours()
    )
    for sequence in asked:
        assert [pdu.status for pdu in carrier.peer.answers_to(sequence)] == [CommandStatus.ESME_RX_T_APPN]
    assert [pdu.status for pdu in carrier.peer.answers_to(asked[1] + 1)] == [0]
    assert (shown.code, len(shown.of("receipt"))) == (0, 1)
    assert "4915112345678" not in shown.out
    assert b"4915112345678".hex() not in shown.out
    assert "2 came here and were refused for now" in shown.of("problem")[0]["detail"]


async def test_a_receipt_with_an_id_that_does_not_meet_is_shown_and_left_to_the_engine(
    trials: Trials, carrier: ScriptedSmsc
) -> None:
    def take(peer: Peer, submit: Pdu) -> None:
        peer.accept(submit, "abc")
        peer.ask(Command.deliver_sm, receipt_of("something-else"))

    carrier.on_submit = take
    shown = await trials.run(SMPP.format(port=carrier.port, more=""), "--timeout", "1")
    assert shown.code == 1
    assert "see `receipt_ids`" in shown.of("receipt")[0]["detail"]
    assert "no receipt of it came within 1 s" in shown.result


@pytest.mark.parametrize(
    ("on_submit", "what", "code"),
    [
        (lambda peer, pdu: peer.answer(pdu, CommandStatus.ESME_RINVSRCADR), "permanent", 1),
        (lambda peer, pdu: peer.answer(pdu, 0x442), "temporary", 1),
        (lambda peer, pdu: None, "unknown", 1),
        (lambda peer, pdu: peer.reset(), "unknown", 1),
    ],
)
async def test_what_is_not_accepted_ends_with_1(
    trials: Trials, carrier: ScriptedSmsc, on_submit: Any, what: str, code: int
) -> None:
    carrier.on_submit = on_submit
    shown = await trials.run(SMPP.format(port=carrier.port, more="timeout_s = 1"))
    assert (shown.code, shown.of("understood")[0]["what"]) == (code, what)


async def test_a_refused_bind_is_explained_and_tried_once(trials: Trials, carrier: ScriptedSmsc) -> None:
    carrier.on_bind = lambda peer, pdu: peer.answer(pdu, CommandStatus.ESME_RINVPASWD)
    shown = await trials.run(SMPP.format(port=carrier.port, more=""))
    (refused,) = shown.of("received")
    assert refused["fields"]["command_status"] == "0x0000000E ESME_RINVPASWD: the password is wrong"
    assert (shown.code, len(carrier.binds), carrier.submits) == (1, 1, [])


async def test_what_is_wrong_with_the_command_ends_with_2(trials: Trials) -> None:
    config = SMPP.format(port=1, more="")
    for options, words in (
        (("--to", "0912"), "--to"),
        (("--text", ""), "--text"),
        (("--sender", "far too long a name"), "--sender"),
        (("--timeout", "-1"), "--timeout"),
    ):
        shown = await trials.run(config, *options)
        assert (shown.code, shown.out) == (2, "")
        assert words in shown.err
    shown = await trials.run(config.replace("acme", "other"))
    assert (shown.code, "(other)" in shown.err) == (2, True)


async def answer_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if b"Length" in line)
    await reader.readexactly(length)
    writer.write(b'HTTP/1.1 200 OK\r\nX-Request: 7\r\nContent-Length: 11\r\n\r\n{"id": "a"}')
    await writer.drain()
    writer.close()


async def test_a_request_by_http_is_shown_as_it_went_without_its_secrets(trials: Trials) -> None:
    server = await asyncio.start_server(answer_http, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        shown = await trials.run(HTTP.format(port=port, more='id = "json:id"'))
    assert shown.code == 0, shown
    (sent,) = shown.of("sent")
    assert sent["what"] == "POST /v1/***/send HTTP/1.1"
    assert sent["fields"]["X-Api-Key"] == "***"
    assert sent["fields"]["Authorization"] == "Basic ***"
    assert sent["body"].startswith("to=%2B989121234567")
    (received,) = shown.of("received")
    assert (received["what"], received["fields"]["X-Request"]) == ("HTTP/1.1 200 OK", "7")
    assert received["body"] == '{"id": "a"}'
    assert "hunter" not in shown.out
    assert "no receipt is waited for" in shown.result


async def test_people_see_the_same_steps(trials: Trials, carrier: ScriptedSmsc) -> None:
    config = SMPP.format(port=carrier.port, more="receipts = false")
    shown = await trials.run(config, as_json=False)
    assert shown.code == 0
    assert "-->  bind_transceiver" in shown.out
    assert "command_status  0x00000000 ESME_ROK: done" in shown.out
    assert "hunter2" not in shown.out
