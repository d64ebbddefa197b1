"""The admin key of the API is the text of a file, however an editor saved it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import api_keys
from engine.boot.admin import _admin_key_digest
from engine.config import Config
from engine.config.http import Http

KEY = "smsa_key"


@pytest.mark.parametrize("content", [KEY.encode(), KEY.encode() + b"\r\n", b"\xef\xbb\xbf" + KEY.encode()])
def test_a_byte_order_mark_and_a_line_end_are_no_part_of_the_key(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "admin_key"
    path.write_bytes(content)
    config = Config(http=Http(admin_key_file=str(path)))
    assert _admin_key_digest(config) == api_keys.digest(KEY)


@pytest.mark.parametrize("content", [KEY.encode("utf-16"), b"\xff", b"", b" \n", b"\xef\xbb\xbf", None])
def test_a_file_that_cannot_be_read_closes_the_admin_calls(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "admin_key"
    if content is not None:
        path.write_bytes(content)
    assert _admin_key_digest(Config(http=Http(admin_key_file=str(path)))) == b""
