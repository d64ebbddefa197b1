"""The pages and their files, and nothing else."""

from __future__ import annotations

import pytest

from engine.console.pages import FOLDER, Pages
from tests.console.world import PAGES, Console

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@pytest.mark.parametrize("path", ["", "/", "/live", "/organisations/2/messages/0190a0b0-0000", "/api-keys"])
async def test_every_path_of_a_page_is_the_one_page(console: Console, path: str) -> None:
    if path == "/live":
        path = "/live/now"
    reply = await console.ask("GET", f"/console{path}")
    assert (reply.status, reply.octets.decode()) == (200, PAGES["index.html"])
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert reply.headers["Content-Security-Policy"] == POLICY
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("name", "kind"),
    [("app.js", "text/javascript; charset=utf-8"), ("pages/live.js", "text/javascript; charset=utf-8"),
     ("style.css", "text/css; charset=utf-8")],
)  # fmt: skip
async def test_files_have_their_type_and_are_loaded_once(console: Console, name: str, kind: str) -> None:
    path = f"/console/assets/{name}"
    reply = await console.ask("GET", path)
    assert (reply.status, reply.headers["Content-Type"]) == (200, kind)
    assert reply.octets.decode() == PAGES[name]
    assert reply.headers["Content-Security-Policy"] == POLICY
    again = await console.ask("GET", path, headers={"If-None-Match": reply.headers["ETag"]})
    assert (again.status, again.octets) == (304, b"")
    changed = await console.ask("GET", path, headers={"If-None-Match": '"another"'})
    assert changed.status == 200
    head = await console.ask("HEAD", path)
    assert (head.status, head.octets) == (200, b"")


async def test_a_large_file_is_packed_for_who_can_unpack_it(console: Console) -> None:
    host = f"Host: 127.0.0.1:{console.port}\r\nConnection: close\r\n"
    for asks, is_packed in (("gzip, br", True), ("identity", False)):
        request = f"GET /console/assets/app.js HTTP/1.1\r\n{host}Accept-Encoding: {asks}\r\n\r\n"
        answer = await console.raw(request.encode())
        assert (b"Content-Encoding: gzip" in answer) == is_packed
        assert (len(answer) < len(PAGES["app.js"])) == is_packed


@pytest.mark.parametrize(
    "name",
    ["../secret.txt", "%2e%2e/secret.txt", "..%2fsecret.txt", "pages/../../secret.txt", "/etc/passwd",
     "%00", "app.js%00", "app.js/", "pages", "", "notes.unknown", "..%5csecret.txt", "%0a"],
)  # fmt: skip
async def test_nothing_else_is_served(console: Console, name: str) -> None:
    host = f"Host: 127.0.0.1:{console.port}\r\nConnection: close\r\n\r\n"
    answer = await console.raw(f"GET /console/assets/{name} HTTP/1.1\r\n{host}".encode())
    assert b"HTTP/1.1 404 " in answer or PAGES["index.html"].encode() in answer, answer
    assert b"secret" not in answer
    assert b"root:" not in answer


async def test_the_package_has_its_pages() -> None:
    assert FOLDER.is_dir()
    assert set(Pages(FOLDER).actions()) >= {"/console", "/console/"}
