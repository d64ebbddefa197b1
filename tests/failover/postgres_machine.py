"""A PostgreSQL of a test's own that goes back to an earlier moment, as after a restored backup."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from engine.stores.migrate import migrate_postgres
from supervisor.embedded.recipes import Postgres
from supervisor.embedded.server_dir import ServerDir
from supervisor.embedded.servers import Server, start_all


class PostgresMachine:
    """One server, and copies of its data directory by which it goes back."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._copies = 0
        self.server: Server = start_all(folder, {"postgres"})["postgres"]

    @property
    def data(self) -> Path:
        """Its data directory."""
        return self._folder / "postgres"

    @property
    def books_url(self) -> str:
        """The database `books`."""
        return self.server.url.rpartition("/")[0] + "/books"

    async def prepare(self) -> None:
        """Make the database `books` with the tables of the engine."""
        admin = await asyncpg.connect(self.server.url)
        await admin.execute("CREATE DATABASE books")
        await admin.close()
        await migrate_postgres(self.books_url)

    def backup(self) -> Path:
        """A copy of the data directory of the stopped server, which then goes on."""
        self._end()
        self._copies += 1
        kept = self._folder / f"backup{self._copies}"
        _copy(self.data, kept)
        self.server.restart()
        return kept

    def restore(self, kept: Path) -> None:
        """Put a copy in the place of the data; the server then goes on from there."""
        self._end()
        shutil.rmtree(self.data)
        _copy(kept, self.data)
        self.server.restart()

    def _end(self) -> None:
        os.kill(self.server.pid, signal.SIGINT)
        self.server.stop(10)

    def kill(self) -> None:
        """End the server as a loss of power does."""
        os.kill(self.server.pid, signal.SIGKILL)

    def standby(self, folder: Path, slot: str) -> PostgresMachine:
        """A standby that streams from this server through a slot of that name; it serves reads."""
        folder.mkdir()
        url = urlsplit(self.server.url)
        command = [str(_programs() / "pg_basebackup"), "-D", str(folder / "postgres"), "-R", "-X", "stream"]
        command += ["-c", "fast", "-C", "-S", slot, "-d", f"{self.server.url}?application_name={slot}"]
        subprocess.run(command, check=True, capture_output=True)
        owner = self.data.stat()
        for path in (folder / "postgres", *(folder / "postgres").rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
        assert url.password is not None
        place = ServerDir(folder, "postgres")
        place.claim()
        place.keep_password(url.password)
        place.leave()
        return PostgresMachine(folder)

    async def promote(self) -> None:
        """Make this standby the primary; returns when it takes writes."""
        connection = await asyncpg.connect(self.server.url)
        assert await connection.fetchval("SELECT pg_promote()")
        await connection.close()

    def stop(self) -> None:
        """End the server."""
        self.server.stop(10)


def _programs() -> Path:
    """The folder of PostgreSQL's programs."""
    return Postgres().programs()[0].parent


def _copy(of: Path, to: Path) -> None:
    """Copy a folder with the owners of its files."""
    subprocess.run(["cp", "-a", str(of), str(to)], check=True)
