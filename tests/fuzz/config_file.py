"""Configuration files: the settings, or one sentence. What was taken can be built, or is refused alike."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from engine.config import load
from engine.errors import ConfigError
from engine.providers import build, receipt_readers
from engine.providers.problems import Problems
from engine.providers.settings import CustomSettings, HttpSettings, ProviderSettings, SmppSettings
from tests.fuzz.target import Bench, Check, Target, bench, printable
from tests.providers.sink import Sink

_FILES = [
    b'node = "a"\nshards = 16\n[http]\nlisten = "[::1]:8080"\ntimeout_s = 10\n[roles]\ningest = 2\n',
    b'[redis]\nurl = "rediss://u:p@h:6379/0"\n[postgres]\nurl = "postgresql://a:1,b:2/sms"\n',
    b'[queues.express]\nbackoff_s = 0.5\nunknown_outcome = "at-most-once"\n[credit]\nquota_min = 1\n',
    b'[prices]\n"" = 1\n"+98" = 2\n[[routes]]\nprefix = "+98"\nproviders = ["a"]\nweights = [1]\n'
    b'[[providers]]\nname = "a"\nurl = "http://h"\n',
    b'[[providers]]\nname = "s"\ntype = "smpp"\nhost = "h"\nsystem_id = "u"\npassword = "p"\nsource_ton = 5\n'
    b'parameters = { 1400 = "00ff" }\nmessage_id_parameter = "1401"\nconcatenation = "sar"\n',
    b'[[providers]]\nname = "h"\ntype = "http"\npreset = "vonage"\nusername = "u"\npassword = "p"\n'
    b'public_url = "https://x.example"\nreceipt_token = "0123456789abcdef"\n[providers.request.fields]\n'
    b'callback = "{nothing?}"\n',
    b'[[providers]]\nname = "g"\ntype = "http"\nurl = "http://h/x"\n[providers.request]\nmethod = "GET"\n'
    b'path = "/{to_digits}"\nbody = "query"\n[providers.answer]\nid = "text:id=(\\\\d+)"\n'
    b'[[providers.answer.accepted]]\nstatus = [200, "2xx"]\njson = { "a.*.b" = [0, true] }\n'
    b'[providers.receipt]\nid = "query:id"\nstates = { delivered = ["ok*"] }\nreply = { status = 204 }\n',
    b"\xef\xbb\xbfshards = 1 # a byte order mark\n", "node = '\u00e9'".encode("latin-1"), b"[http\n",
    b"a = \n",
]  # fmt: skip
WORDS = (
    b"[http]\n", b"[[providers]]\n", b"[roles]\n", b"[queues.normal]\n", b"[credit]\n", b"[prices]\n",
    b"name = ",
    b"type = ", b'"smpp"', b'"http"', b'"simulated"', b"url = ", b"[providers.request]\n",
    b"[providers.answer]\n",
    b"[providers.receipt]\n", b"nan", b"inf", b"-1", b"1e400", b"99999999999999999999", b"1979-05-27", b"[]",
    b"{}",
    b"''", b"true", b"\n", b"\\u0000", b"{id}", b"{from?}", b"json:", b"text:", b"header:", b"own", b"(?:",
    b"[^",
    b"listen = ", b"code = ", b"accepted = ", b"fields = ", b"headers = ", b"rewrite_to = ", b"'''", b'"""',
)  # fmt: skip


def seeds() -> list[bytes]:
    return [*_FILES, b"".join(_FILES[:3]), _FILES[3] + _FILES[4] + _FILES[5]]


@contextlib.contextmanager
def opened() -> Iterator[Check]:
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder,
        bench() as on,
    ):
        yield partial(check, on, Path(folder) / "smsengine.toml")


def check(on: Bench, path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        on.run(_used(path))
    except ConfigError as e:
        assert printable(str(e)), f"the error is {str(e)!r}"


async def _used(path: Path) -> None:
    sections = [one for one in load(path).providers if not _reads_elsewhere(one)]
    receipt_readers(sections)
    for one in sections:
        build(one, Sink(), Problems())


def _reads_elsewhere(section: ProviderSettings) -> bool:
    """Whether it names a file or a module, which could be any of this machine."""
    if isinstance(section, HttpSettings):
        return bool(section.password_file or section.receipt_token_file or section.tls_ca_file)
    if isinstance(section, SmppSettings):
        return bool(section.password_file or section.tls_ca_file)
    return isinstance(section, CustomSettings)


TARGET = Target("config_file", seeds, opened, WORDS)
