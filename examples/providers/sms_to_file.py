"""A provider in one file: messages go into a text file, one JSON object a line.

For staging systems that must not reach anybody, and as a pattern for providers of your own.
Put this directory on PYTHONPATH, and into the configuration:

    [[providers]]
    name = "file"
    type = "custom"
    factory = "sms_to_file:build"
    options = { path = "/var/tmp/messages.jsonl", receipts = true }

`engine.providers.ports.Provider` says what any provider must do: `submit` returns at once, and every
message gets one verdict within the time-out, whatever happens. Here a thread writes, so that the
loop never waits for the disk. Messages that come meanwhile are the next batch. A message is
accepted when it is on the disk (fsync). A disk that fails before anything is written makes the
verdict `temporary`; one that fails or hangs while writing makes it `unknown`.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from engine.errors import ConfigError
from engine.providers.ports import Done
from engine.receipts.ports import ReceiptSink
from engine.receipts.records import Receipt
from engine.records import Message, Verdict, VerdictKind

WAITING_MAX = 10_000
RECEIPT_RETRY_S = 1.0


def build(*, name: str, timeout_s: float, options: dict[str, Any], receipts: ReceiptSink) -> FileProvider:
    """The function that `factory` names; it is called once in every worker."""
    path = options.get("path")
    if not isinstance(path, str) or not path:
        raise ConfigError(f"providers.{name}.options.path must be the path of a file.")
    if unknown := options.keys() - {"path", "receipts"}:
        raise ConfigError(f"providers.{name}.options.{unknown.pop()} is not known: there are path, receipts.")
    return FileProvider(name, timeout_s, path, receipts if options.get("receipts") else None)


class FileProvider:
    """Writes batches of messages into one file, by a thread."""

    def __init__(self, name: str, timeout_s: float, path: str, receipts: ReceiptSink | None) -> None:
        self._name, self._path, self._receipts = name, path, receipts
        # A batch may wait for the one before it, then for itself.
        self._write_s = timeout_s / 2
        self._waiting: list[tuple[Message, Done]] = []
        self._wake = asyncio.Event()
        self._stopping = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"provider-{name}")
        self._hung: asyncio.Future[tuple[VerdictKind, str]] | None = None
        self._writing: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """The name of its `[[providers]]` section."""
        return self._name

    async def start(self) -> None:
        """Begin to write what is submitted."""
        self._writing = asyncio.create_task(self._write_batches())

    async def stop(self) -> None:
        """Take no more messages, and write those that wait."""
        self._stopping = True
        self._wake.set()
        if self._writing:
            # At most two batches are left, and each of them ends in time.
            await self._writing
        self._thread.shutdown(wait=False)

    def submit(self, message: Message, done: Done) -> None:
        """Put the message into the next batch; `temporary` when too many wait."""
        if self._stopping or len(self._waiting) >= WAITING_MAX:
            code = "stopped" if self._stopping else "busy"
            asyncio.get_running_loop().call_soon(done, self._verdict(message, "temporary", code))
            return
        self._waiting.append((message, done))
        self._wake.set()

    async def _write_batches(self) -> None:
        while self._waiting or not self._stopping:
            await self._wake.wait()
            self._wake.clear()
            batch, self._waiting = self._waiting, []
            if not batch:
                continue
            kind, code = await self._written([message for message, _ in batch])
            for message, done in batch:
                done(self._verdict(message, kind, code))
            if kind == "accepted" and self._receipts:
                self._deliver(self._receipts, [message for message, _ in batch])

    async def _written(self, messages: list[Message]) -> tuple[VerdictKind, str]:
        if self._hung and not self._hung.done():
            return "temporary", "disk-hangs"
        writing = asyncio.get_running_loop().run_in_executor(self._thread, self._append, messages)
        ended, _ = await asyncio.wait({writing}, timeout=self._write_s)
        if ended:
            return writing.result()
        self._hung = writing
        return "unknown", "timeout"

    def _append(self, messages: list[Message]) -> tuple[VerdictKind, str]:
        """Append the messages, in the thread: all lines are written by one call."""
        lines = "".join(
            json.dumps({"id": m.id, "to": m.to, "from": m.sender, "text": m.text}, ensure_ascii=False) + "\n"
            for m in messages
        )
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as e:
            return "temporary", e.strerror or "disk"
        try:
            data = lines.encode()
            if os.write(file, data) < len(data):
                return "unknown", "disk-full"
            os.fsync(file)
        except OSError as e:
            return "unknown", e.strerror or "disk"
        finally:
            os.close(file)
        return "accepted", "written"

    def _verdict(self, message: Message, kind: VerdictKind, code: str) -> Verdict:
        their_id = message.id if kind == "accepted" else ""
        return Verdict(kind=kind, provider=self._name, provider_message_id=their_id, code=code)

    def _deliver(self, sink: ReceiptSink, messages: list[Message]) -> None:
        """Send receipts as a provider does: one that was not kept is sent again."""
        loop = asyncio.get_running_loop()

        def stored(kept: bool) -> None:
            if not kept and not self._stopping:
                loop.call_later(RECEIPT_RETRY_S, self._deliver, sink, messages)

        now_us = time.time_ns() // 1000
        receipts = [
            Receipt(
                provider=self._name,
                provider_message_id=message.id,
                state="delivered",
                code="written",
                at_us=now_us,
                to=message.to.lstrip("+"),
                message_id=message.id,
            )
            for message in messages
        ]
        sink.put(receipts, stored)
