"""One message through one provider, past the queues and the credit, and what comes of it.

The provider is made as a worker makes it, with one connection, and sends one message; nothing is retried.
Nobody is charged, and no event is recorded. Killed here: the provider may have the message; nothing else is
left.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time

import msgspec

from engine.config import Config
from engine.errors import ConfigError, Refusal, Unavailable
from engine.ids import MessageIds
from engine.intake import phone_numbers, segments
from engine.logs.telemetry import configure_logs
from engine.providers import build, receipt_readers
from engine.providers.ports import Provider
from engine.providers.problems import Problems
from engine.providers.settings import (
    CustomSettings,
    HttpSettings,
    ProviderSettings,
    SimulatedSettings,
    SmppSettings,
    needs_simulator,
)
from engine.records import Message, Verdict
from engine.stores.redis.link import RedisLink
from supervisor.cli.trial.receipts import Awaited, TrialSink, look_for
from supervisor.cli.trial.steps import Steps
from supervisor.cli.trial.watch import Watch, watch_of

# How long a session may take until it is bound, seconds; at least as long as connecting and binding.
_BOUND_S = 25.0
# Idle for so long, a session is asked whether it lives, so that this shows too.
_ENQUIRE_S = 5.0
_MEANINGS = {
    "accepted": "the provider took the message",
    "temporary": "not taken; the engine would try again, or another provider",
    "throttled": "too much at once; the engine would send it more slowly",
    "permanent": "refused for good; the engine would give it up",
    "unknown": "nobody knows whether the provider took it",
}


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator asks for. `timeout_s` is how long the receipt is waited for; 0: not at all."""

    provider: str
    to: str
    text: str
    sender: str
    timeout_s: float
    as_json: bool


def perform(trial: Trial, config: Config, engine_runs: bool) -> int:
    """Carry out a trial with the provider of that name in `config`.

    Returns the exit code: 0 when the provider took the message, and its receipt came where one was waited
    for; else 1. Raises ConfigError for a provider that is not there or cannot be used, and for a number, a
    text or a sender that cannot be sent.
    """
    configure_logs(as_json=False, level="error")
    settings = _section(config, trial.provider)
    message = _message(trial)
    return asyncio.run(_Run(trial, config, settings, message, engine_runs).perform())


class _Run:
    """One trial under way."""

    def __init__(
        self, trial: Trial, config: Config, settings: ProviderSettings, message: Message, engine_runs: bool
    ) -> None:
        self._trial = trial
        self._config = config
        self._settings = settings
        self._message = message
        self._engine_runs = engine_runs
        self._steps = Steps(trial.as_json)
        self._awaited = Awaited(message, settings.receipt_ids, self._steps)
        self._sink = TrialSink(self._awaited)
        self._problems = Problems()

    async def perform(self) -> int:
        """See `perform`."""
        watch = watch_of(self._settings, self._message.to, self._steps)
        provider = build(self._settings, self._sink, self._problems, watch)
        self._plan()
        await provider.start()
        try:
            code, sentence = await self._try(provider, watch)
        finally:
            self._sink.judge()
            await provider.stop()
            watch.flush()
        self._not_understood()
        self._steps.add("result", "ok" if code == 0 else "NOT OK", sentence)
        return code

    async def _try(self, provider: Provider, watch: Watch) -> tuple[int, str]:
        """Send, and wait for the receipt: the exit code and how it ended."""
        verdict = await self._send(provider, watch)
        watch.flush()
        if verdict is None:
            return 1, "nothing was sent: see above"
        fields = {
            "id": verdict.provider_message_id or "none",
            "code": verdict.code,
            "latency": f"{verdict.latency_us / 1000:.1f} ms",
        }
        self._steps.add("understood", verdict.kind, _MEANINGS[verdict.kind], fields=fields)
        if verdict.kind != "accepted":
            return 1, _MEANINGS[verdict.kind]
        self._awaited.know(verdict)
        self._sink.judge()
        return await self._receipt()

    def _plan(self) -> None:
        message = self._message
        what = f"{self._settings.name} ({self._settings.__struct_config__.tag})"
        detail = "one message past the queues: not charged, not recorded, not counted in `throughput`"
        fields = {
            "to": message.to,
            "from": message.sender or "left to the provider",
            "text": message.text,
            "encoding": f"{message.encoding}, segments: {message.segments}",
            "id": message.id,
        }
        self._steps.add("plan", what, detail, fields=fields)

    async def _send(self, provider: Provider, watch: Watch) -> Verdict | None:
        """The verdict; None when no session can be bound."""
        try:
            async with asyncio.timeout(_BOUND_S):
                if await watch.ready:
                    return None
        except TimeoutError:
            self._steps.add("failed", detail=f"no session was bound within {_BOUND_S:g} s")
            return None
        given: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        provider.submit(self._message, given.set_result)
        return await given

    async def _receipt(self) -> tuple[int, str]:
        """Wait for the receipt, where one can come: the exit code and how it ended."""
        if not self._trial.timeout_s:
            return 0, "accepted; its receipt was not waited for (--timeout 0)"
        if reason := self._no_receipt():
            return 0, f"accepted; no receipt is waited for: {reason}"
        self._steps.add(
            "plan", "receipt", f"waits for it, {self._trial.timeout_s:g} s at most; Ctrl-C ends it"
        )
        looking = asyncio.create_task(self._wait())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(looking, self._trial.timeout_s)
        if not self._awaited.met:
            return 1, f"accepted, but no receipt of it came within {self._trial.timeout_s:g} s"
        if not self._awaited.ended.is_set():
            return 0, "accepted, and a receipt came; how it ended is not known yet"
        return 0, "accepted, and its receipt came"

    async def _wait(self) -> None:
        if not self._engine_runs:
            await self._awaited.ended.wait()
            return
        # Also by SMPP: a provider may send it on a session of the engine's.
        link = RedisLink(self._config.redis.url, timeout_s=5.0, name="trial")
        try:
            await look_for(self._awaited, self._settings.name, link, self._config.shards)
        except Unavailable as e:
            self._steps.add("failed", detail=f"the receipts of the engine cannot be looked at: {e}")
            await self._awaited.ended.wait()
        finally:
            await link.close()

    def _no_receipt(self) -> str:
        """Why no receipt can be waited for; "" when one can."""
        match self._settings:
            case SmppSettings(receipts=False):
                return "`receipts` of this provider is false"
            case SmppSettings(bind="transmitter"):
                return "its `bind` receives nothing"
            case SmppSettings():
                return ""
            case SimulatedSettings() | CustomSettings():
                return "a provider of this type has none that could be seen from here"
            case HttpSettings() if not receipt_readers([self._settings]):
                return "its section has no receipt_token, so it is not told where to push them"
        if not self._engine_runs:
            return "it is pushed to the API of the engine, and none runs in the data directory (--data-dir)"
        return ""

    def _not_understood(self) -> None:
        for noted in self._problems.collect():
            for one in noted.samples:
                self._steps.add("problem", noted.kind, "not understood", body=one.sample)
        if self._sink.refused:
            self._steps.add(
                "problem", "receipts of other messages",
                f"{self._sink.refused} came here and were refused for now: the provider sends them again",
            )  # fmt: skip


def _section(config: Config, name: str) -> ProviderSettings:
    """The settings for a trial: as configured, with one connection. Raises ConfigError."""
    found = next((p for p in config.providers if p.name == name), None)
    if found is None:
        names = ", ".join(p.name for p in config.providers) or "none"
        raise ConfigError(f"NAME must be a provider of the configuration ({names}), not {name!r}.")
    if needs_simulator(found):
        raise ConfigError(f"{name} is simulated by `smsengine up`, which is not running.")
    if isinstance(found, SmppSettings):
        enquire_s = min(found.enquire_link_s, _ENQUIRE_S)
        return msgspec.structs.replace(found, sessions=1, enquire_link_s=enquire_s)
    if isinstance(found, HttpSettings | SimulatedSettings):
        return msgspec.structs.replace(found, connections_max=1)
    return found


def _message(trial: Trial) -> Message:
    """The message as the API would accept it. Raises ConfigError."""
    if not trial.text:
        raise ConfigError("--text must have at least one character.")
    try:
        to = phone_numbers.e164(trial.to)
    except Refusal as e:
        raise ConfigError(f"--to: {e.detail}") from e
    try:
        sender = phone_numbers.sender(trial.sender) if trial.sender else ""
    except Refusal as e:
        raise ConfigError(f"--sender: {e.detail}") from e
    measured = segments.measure(trial.text)
    now_us = time.time_ns() // 1000
    rng = random.SystemRandom()
    (message_id,) = MessageIds(rng.getrandbits(26), rng.getrandbits(48)).make(now_us // 1000, 1)
    return Message(
        id=message_id,
        organisation_id=0,
        to=to,
        text=trial.text,
        sender=sender,
        encoding=measured.encoding,
        segments=measured.segments,
        units=0,
        accepted_at_us=now_us,
        expires_at_us=now_us + 3_600_000_000,
    )
