"""The files of the pages: index.html for every page, and what it loads from /console/assets/.

They are read once, when the process starts, so that a request can name nothing else than one of them.
"""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import NamedTuple

import structlog
from aiohttp import hdrs, web

from engine.api.guard import Action
from engine.api.problems import not_found
from engine.api.response import Response
from engine.console.access import PATH

FOLDER = Path(__file__).parent / "static"
_INDEX = "index.html"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}
# What is worth packing, octets.
_PACKED_MIN = 1_024

_log = structlog.get_logger(__name__)


class _File(NamedTuple):
    body: bytes
    # The same as gzip; b"": not worth it.
    packed: bytes
    content_type: str
    tag: str


class Pages:
    """The actions on the pages and their files."""

    def __init__(self, folder: Path) -> None:
        """Read all files in `folder` whose kind is known. It blocks for some milliseconds."""
        self._files = {
            file.relative_to(folder).as_posix(): _read(file)
            for file in sorted(folder.rglob("*"))
            if file.suffix in _TYPES and file.is_file()
        }
        if _INDEX not in self._files:
            _log.warning("the console has no pages", folder=str(folder))

    def actions(self) -> dict[str, dict[str, Action]]:
        """By path and method; those of the pages take whatever no other path of the console does."""
        return {
            PATH: {"GET": self.index},
            f"{PATH}/": {"GET": self.index},
            f"{PATH}/assets/{{name:.+}}": {"GET": self.asset},
            f"{PATH}/{{page:.+}}": {"GET": self.index},
        }

    async def index(self, request: web.Request) -> Response:
        """`GET /console/...`: 200 with the one page, which shows what the path says. Raises Refusal 404."""
        return self._shown(request, _INDEX)

    async def asset(self, request: web.Request) -> Response:
        """`GET /console/assets/...`: 200 with a file, 304 when the caller has it. Raises Refusal 404."""
        return self._shown(request, request.match_info["name"])

    def _shown(self, request: web.Request, name: str) -> Response:
        file = self._files.get(name)
        if file is None:
            raise not_found("The console has no such file.")
        # The names stay when the contents change, so a browser asks each time, and loads what is new.
        headers = {"ETag": file.tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if file.tag in request.headers.get(hdrs.IF_NONE_MATCH, ""):
            return Response(304, more=headers)
        if file.packed and "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, ""):
            headers["Content-Encoding"] = "gzip"
            return Response(200, file.packed, content_type=file.content_type, more=headers)
        return Response(200, file.body, content_type=file.content_type, more=headers)


def _read(file: Path) -> _File:
    body = file.read_bytes()
    packed = gzip.compress(body, 6, mtime=0) if len(body) >= _PACKED_MIN else b""
    # W/: the packed form has the same tag.
    tag = f'W/"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    return _File(body, packed if len(packed) < len(body) else b"", _TYPES[file.suffix], tag)
