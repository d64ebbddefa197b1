"""Processes of tests that start at once: they are forked from one that has everything imported.

Starting Python and importing the engine takes a second of a core, and some tests start many.
"""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection

# What the one process imports.
_MODULES = ["tests.activity.archiver_process", "tests.receipts.matcher_process"]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(_MODULES)


def _run(module: str, arguments: tuple[str, ...], reading: Connection, writing: Connection) -> None:
    """In the child: the coroutine `main` of `module`, with stdin and stdout of its own."""
    for pipe, number in ((reading, 0), (writing, 1)):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    asyncio.run(importlib.import_module(module).main(*arguments))


class Process:
    """One process; a test may kill or freeze it. It says lines on stdout, and reads them on stdin."""

    def __init__(self, module: str, *arguments: str) -> None:
        """`module`: one of `_MODULES`. `arguments`: of its `main`."""
        its_stdin, self._stdin = _context.Pipe(duplex=False)
        self._stdout, its_stdout = _context.Pipe(duplex=False)
        self._process = _context.Process(target=_run, args=(module, arguments, its_stdin, its_stdout))
        self._process.start()
        its_stdin.close()
        its_stdout.close()
        self._lines = asyncio.StreamReader()

    async def listen(self) -> None:
        """Begin to read what it says."""
        loop = asyncio.get_running_loop()
        stdout = os.fdopen(os.dup(self._stdout.fileno()), "rb")
        self._stdout.close()
        self._transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._lines), stdout
        )

    async def says(self, line: str) -> None:
        """Until it has said this line."""
        async with asyncio.timeout(60):
            while (await self._lines.readline()).decode().strip() != line:
                assert not self._lines.at_eof(), "it ended"

    def go_on(self) -> None:
        """Send it a line."""
        os.write(self._stdin.fileno(), b"\n")

    def signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    async def ended(self) -> int:
        """Its exit code, once it has ended; less than 0 when a signal ended it."""
        async with asyncio.timeout(60):
            await asyncio.get_running_loop().run_in_executor(None, self._process.join, 30)
        assert self._process.exitcode is not None
        return self._process.exitcode

    async def close(self) -> None:
        """End it, if it lives."""
        if self._process.exitcode is None:
            self._process.kill()
            await self.ended()
        self._stdin.close()
        self._transport.close()
        self._process.close()


@asynccontextmanager
async def forked(module: str, *arguments: str) -> AsyncIterator[Process]:
    """A process for this block."""
    process = Process(module, *arguments)
    await process.listen()
    try:
        yield process
    finally:
        await process.close()
