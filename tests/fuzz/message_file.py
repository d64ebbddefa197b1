"""Files of `smsengine send --file`: each line becomes a message or a reason, and none stops the others.

The first octet chooses format and defaults.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec

from engine.errors import ConfigError
from supervisor.cli.message_file import MessageFile
from tests.fuzz.api_body import MESSAGES
from tests.fuzz.target import Check, Target, printable

_CSV = [
    b'to,text,from\n+4915112345678,"Your code, 1",Demo\n+494,"He said "hi""\n+14155550123,last,\n',
    b"\xef\xbb\xbfTo;Text;Validity\r\n+989121234567;\xd8\xb3\xd9\x84\xd8\xa7\xd9\x85;60\r\n\r\n;;\r\n",
    b"to\ttext\tqueue\n+1\tx\texpress\textra\n+2\t\"two\nlines\"\tnormal\n",
    "to,text\n+1,caf\u00e9\n".encode("latin-1"),
    "to,text\r\n+1,caf\u00e9\r\n".encode("utf-16"),
    b"to,text\r+1,old line ends\r+2,second\r",
    b"sep=;\nto;text\n+1;x\n",
    b'to,text,unknown,send_at,reference\n+1,x,y,2030-01-31T09:00:00Z,"a',
    b"",
]  # fmt: skip
WORDS = (
    b"to", b"text", b"from", b"queue", b"validity", b"send_at", b"reference", b",", b";", b"\t", b'"', b'""',
    b"\r\n",
    b"\n", b"\r", b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"sep=;", b"null", b"\\ud83d", b"1e400", b'{"to":',
    b"\xe9",
)  # fmt: skip


def seeds() -> list[bytes]:
    lines = [
        b"\0" + one for one in (b"\n".join(MESSAGES), b"\r\n\r\n".join(MESSAGES[:2]), *MESSAGES, b"[1]\n{}")
    ]
    return lines + [b"\1" + one for one in _CSV] + [b"\3" + _CSV[0], b"\2" + MESSAGES[0]]


@contextlib.contextmanager
def opened() -> Iterator[Check]:
    # In memory where there is such a folder.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield partial(check, Path(folder) / "messages")


def check(path: Path, data: bytes) -> None:
    flags, content = (data[0], data[1:]) if data else (0, b"")
    path.write_bytes(content)
    source = MessageFile(
        path=path,
        format="csv" if flags & 1 else "jsonl",
        defaults={"to": "+1", "text": "a default"} if flags & 2 else {},
    )
    number = position = count = 0
    try:
        for line in source.lines():
            count += 1
            assert number < line.number, "the numbers do not rise"
            assert position <= line.position <= len(content), "the position is not in the file"
            number, position = line.number, line.position
            assert (line.draft is None) == bool(line.reason)
            if line.draft is None:
                assert printable(line.reason), f"the reason is {line.reason!r}"
            else:
                msgspec.json.encode(line.draft)
    except ConfigError as e:
        assert printable(str(e)), f"the error is {str(e)!r}"
        assert flags & 1 or not _plain(content), "a file of JSON lines was given up"
        return
    for name in source.ignored:
        assert isinstance(name, str)
    if not flags & 1 and _plain(content):
        assert count >= sum(bool(line.strip()) for line in content.decode().split("\n")), (
            "a line has no result"
        )


def _plain(content: bytes) -> bool:
    """Whether its octets are its characters, in any encoding that it could be in."""
    return content.isascii() and b"\0" not in content


TARGET = Target("message_file", seeds, opened, WORDS)
