"""ClickHouse's HTTP interface without input or output: statements, settings, bodies, errors.

https://clickhouse.com/docs/interfaces/http. This module checks what a server checks and its
engine alone does not: one statement per request, no files of the host named by INTO OUTFILE or
FROM INFILE. Unknown settings the engine itself refuses when they are applied with SET.

Statements are read as bytes decoded with latin-1, one character per byte, so that an
offset in the text is an offset in the body and binary data behind it does no harm.
"""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from engine.written_numbers import is_whole

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

try:
    from lz4 import frame as lz4_frame  # type: ignore[import-untyped]
except ImportError:  # then the client of this installation has no lz4 either
    lz4_frame = None

# The rows of an INSERT begin before this: the limit of a server (max_query_size), bytes.
HEADER_BYTES_MAX = 256 * 1024
# Names in the URL or form that are neither settings nor parameters.
RESERVED = frozenset(
    "query database default_format query_id user password quota_key session_id session_timeout "  # noqa: SIM905
    "session_check close_session compress decompress wait_end_of_query buffer_size "
    "client_protocol_version stacktrace".split()
)
# Formats whose parts, one after another, make the whole; others have a head or a foot.
STREAMABLE = frozenset(
    "native rowbinary tabseparated tsv tabseparatedraw tsvraw csv lineasstring jsoneachrow "  # noqa: SIM905
    "jsonlines ndjson jsonstringseachrow jsoncompacteachrow jsoncompactstringseachrow".split()
)
_SELECTS = frozenset(("SELECT", "WITH", "FROM"))
_READS = _SELECTS | {"SHOW", "DESCRIBE", "DESC", "EXISTS", "EXPLAIN", "CHECK", "KILL", "VALUES"}

_STRING = r"'[^'\\]*+(?:\\.[^'\\]*+)*+'"
_NAME = r"\"[^\"\\]*+(?:\\.[^\"\\]*+)*+\"|`[^`\\]*+(?:\\.[^`\\]*+)*+`"
_HEREDOC = r"\$(?P<tag>\w*)\$.*?\$(?P=tag)\$"
_COMMENT = r"--[^\n]*|\#[ !][^\n]*|/\*.*?(?:\*/|\Z)"
_NUMBER = r"[0-9][0-9A-Za-z_.]*+"
# A list of literals is one token: there may be a hundred thousand of them.
_TOKEN = re.compile(
    rf"(?P<skip>\s+|{_COMMENT})"
    rf"|(?P<quoted>{_STRING}(?:\s*,\s*{_STRING})*+|{_NAME}|{_HEREDOC})"
    r"|(?P<word>[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*+)"
    rf"|(?P<number>{_NUMBER}(?:\s*,\s*{_NUMBER})*+)"
    r"|(?P<mark>.)",
    re.DOTALL,
)
# All up to the first semicolon outside quotes and comments, with no step in Python for each token.
_UP_TO_END = re.compile(rf"(?:[^;'\"`\-/\#$]++|{_STRING}|{_NAME}|{_HEREDOC}|{_COMMENT}|[^;])*+", re.DOTALL)
_NOTHING = re.compile(rf"(?:\s|;|{_COMMENT})*+\Z", re.DOTALL)
_CODE = re.compile(r"Code: (\d+)\. ")

# Error codes of ClickHouse (src/Common/ErrorCodes.cpp) that are raised here.
NOT_IMPLEMENTED = 48
SYNTAX_ERROR = 62
UNKNOWN_COMPRESSION_METHOD = 89
INCORRECT_DATA = 117
READONLY = 164
QUERY_IS_TOO_LARGE = 229
TOO_MANY_SIMULTANEOUS_QUERIES = 202
INTO_OUTFILE_NOT_ALLOWED = 358
SESSION_NOT_FOUND = 372
SESSION_IS_LOCKED = 373
INVALID_SESSION_TIMEOUT = 374
AUTHENTICATION_FAILED = 516
UNKNOWN_EXCEPTION = 1002
_NAMES = {
    NOT_IMPLEMENTED: "NOT_IMPLEMENTED",
    SYNTAX_ERROR: "SYNTAX_ERROR",
    UNKNOWN_COMPRESSION_METHOD: "UNKNOWN_COMPRESSION_METHOD",
    INCORRECT_DATA: "INCORRECT_DATA",
    READONLY: "READONLY",
    QUERY_IS_TOO_LARGE: "QUERY_IS_TOO_LARGE",
    TOO_MANY_SIMULTANEOUS_QUERIES: "TOO_MANY_SIMULTANEOUS_QUERIES",
    INTO_OUTFILE_NOT_ALLOWED: "INTO_OUTFILE_NOT_ALLOWED",
    SESSION_NOT_FOUND: "SESSION_NOT_FOUND",
    SESSION_IS_LOCKED: "SESSION_IS_LOCKED",
    INVALID_SESSION_TIMEOUT: "INVALID_SESSION_TIMEOUT",
    AUTHENTICATION_FAILED: "AUTHENTICATION_FAILED",
    UNKNOWN_EXCEPTION: "UNKNOWN_EXCEPTION",
}
# As a server answers (src/Server/HTTP/exceptionCodeToHTTPStatus.cpp); all others are 500.
_STATUS = {
    **dict.fromkeys((16, 27, 33, 36, 43, 53, 62, 89, 117, 358, 372, 373, 374, 456, 457), 400),
    **dict.fromkeys((164, 192, 193, 497, 516), 403),
    **dict.fromkeys((46, 47, 50, 56, 60, 73, 81, 115), 404),
    NOT_IMPLEMENTED: 501,
    159: 408,
    QUERY_IS_TOO_LARGE: 413,
}


class Failed(Exception):
    """A request that ClickHouse refuses; `text` is what its body says."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.text = text
        self.code = code

    @property
    def status(self) -> int:
        """The HTTP status that a server answers with."""
        return _STATUS.get(self.code, 500)


def failed(code: int, detail: str) -> Failed:
    """An error in the words of a server. `code` is one of the error codes above."""
    return Failed(f"Code: {code}. DB::Exception: {detail} ({_NAMES[code]})", code)


def engine_failed(message: str) -> Failed:
    """The engine's own error, without the text that its bindings put before it."""
    found = _CODE.search(message)
    if found is None:
        return failed(UNKNOWN_EXCEPTION, message)
    return Failed(message[found.start() :].strip(), int(found[1]))


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One statement, parsed as far as the interface needs it."""

    # read: has a result; data: INSERT whose rows follow in `format`; command: all others.
    kind: Literal["read", "data", "command"]
    # The statement; of kind "data" without SETTINGS, FORMAT and rows.
    sql: str
    # None: the statement names none.
    format: str | None
    # Whether the engine can give its result in parts.
    streams: bool
    # Offset in the given bytes at which the rows begin.
    data_at: int
    # Of kind "data": what stands from the word SETTINGS to FORMAT.
    settings: str = ""


@dataclass(frozen=True, slots=True)
class _Token:
    # Upper case when a word.
    text: str
    word: bool
    start: int
    end: int
    depth: int


def parse(query: bytes) -> Statement:
    """Parse the bytes of one statement, with or without rows behind it.

    Raises Failed when it is more than one, names a file of the host, or is not UTF-8.
    """
    text = query.decode("latin-1")
    first = next((t for t in _tokens(text) if t.text != "("), None)
    if first is None:
        raise failed(SYNTAX_ERROR, "Empty query.")
    if not first.word:
        # The engine takes some of these for an empty query and reports no error.
        raise failed(SYNTAX_ERROR, f"Syntax error: failed at position {first.start + 1}.")
    if first.text == "INSERT":
        return _parse_insert(query, text)
    _check_single(text)
    reads = first.text in _READS
    return Statement(
        kind="read" if reads else "command",
        sql=_utf8(query),
        format=_format(list(_tokens(text)), text) if reads else None,
        streams=first.text in _SELECTS,
        data_at=len(query),
    )


def _parse_insert(query: bytes, text: str) -> Statement:
    """INSERT INTO [TABLE] [FUNCTION] name [(…)] [SETTINGS …] then FORMAT, VALUES, SELECT or WITH."""
    tokens = _tokens(text[:HEADER_BYTES_MAX])
    before = next(tokens, None)
    while before is not None and before.text in ("INSERT", "INTO", "TABLE", "FUNCTION"):
        before = next(tokens, None)
    # `before` is the name of the table or function now, whatever it is called.
    settings_at: int | None = None
    for token in tokens:
        if token.text in (";", "VALUES", "SELECT", "WITH") and token.depth == 0:
            break
        if token.text == "FROM" and (name := next(tokens, None)) is not None and name.text == "INFILE":
            raise failed(INTO_OUTFILE_NOT_ALLOWED, "FROM INFILE is not allowed")
        if token.text == "SETTINGS" and token.depth == 0 and not _after_point(before) and settings_at is None:
            settings_at = token.start
        if token.text == "FORMAT" and token.depth == 0 and not _after_point(before):
            name = next(tokens, None)
            if name is not None and name.word:
                ends = token.start if settings_at is None else settings_at
                return Statement(
                    kind="data",
                    sql=_utf8(query[:ends]),
                    format=text[name.start : name.end],
                    streams=False,
                    data_at=_data_start(query, name.end),
                    settings=_utf8(query[ends : token.start]),
                )
        before = token
    _check_single(text)
    return Statement(kind="command", sql=_utf8(query), format=None, streams=False, data_at=len(query))


def _after_point(token: _Token | None) -> bool:
    """Whether the token is a point: in `database.format` the word is a name."""
    return token is not None and token.text == "."


def _tokens(text: str) -> Iterator[_Token]:
    depth = 0
    for found in _TOKEN.finditer(text):
        if found.lastgroup == "skip":
            continue
        part = found[0]
        if part == ")":
            depth -= 1
        word = found.lastgroup == "word"
        yield _Token(part.upper() if word else part, word, found.start(), found.end(), depth)
        if part == "(":
            depth += 1


def _check_single(text: str) -> None:
    found = _UP_TO_END.match(text)
    end = found.end() if found else 0
    if _NOTHING.match(text, end) is None:
        raise failed(
            SYNTAX_ERROR,
            f"Syntax error (Multi-statements are not allowed): failed at position {end + 1} (end of query).",
        )


def _format(tokens: list[_Token], text: str) -> str | None:
    """The format named at the end, or before SETTINGS at the end."""
    for i in range(len(tokens) - 1):
        if (tokens[i].text, tokens[i + 1].text) == ("INTO", "OUTFILE"):
            raise failed(INTO_OUTFILE_NOT_ALLOWED, "INTO OUTFILE is not allowed")
    for i in range(len(tokens) - 2, -1, -1):
        name = tokens[i + 1]
        if tokens[i].text == "FORMAT" and tokens[i].depth == 0 and name.word:
            after = tokens[i + 2].text if i + 2 < len(tokens) else ""
            return text[name.start : name.end] if after in ("", ";", "SETTINGS") else None
    return None


def _data_start(query: bytes, at: int) -> int:
    """Offset of the rows: after FORMAT x, blanks and at most one end of line belong to the statement."""
    found = re.compile(rb"[ \t\f]*;?[ \t\f]*(?:\r?\n)?").match(query, at)
    return found.end() if found else at


def _utf8(query: bytes) -> str:
    try:
        return query.decode()
    except UnicodeDecodeError as e:
        raise failed(SYNTAX_ERROR, f"Syntax error: the query is not UTF-8 (byte {e.start}).") from e


@dataclass(frozen=True, kw_only=True)
class Call:
    """What a request asks for besides its statement."""

    database: str
    settings: Mapping[str, str]
    # Values of {name:Type}, escaped as in TabSeparated.
    parameters: Mapping[str, str]
    # "" means: none.
    session: str
    # How long the session stays without a request, seconds.
    session_s: int
    # Refuse when the session does not exist.
    session_check: bool
    default_format: str


def call(arguments: Mapping[str, str], headers: Mapping[str, str]) -> Call:
    """Read the arguments of URL and form together. Raises Failed."""
    for name in ("compress", "decompress"):
        if arguments.get(name, "0") not in ("", "0", "false"):
            raise failed(NOT_IMPLEMENTED, f"{name}=1 is not supported; use Content-Encoding.")
    timeout = arguments.get("session_timeout", "60")
    if not is_whole(timeout) or not 0 < int(timeout) <= 3600:
        raise failed(
            INVALID_SESSION_TIMEOUT, f"Invalid session timeout: '{timeout}'; from 1 to 3600 seconds."
        )
    return Call(
        database=arguments.get("database") or headers.get("X-ClickHouse-Database", ""),
        settings={k: v for k, v in arguments.items() if k not in RESERVED and not k.startswith("param_")},
        parameters={k.removeprefix("param_"): v for k, v in arguments.items() if k.startswith("param_")},
        session=arguments.get("session_id", ""),
        session_s=int(timeout),
        session_check=arguments.get("session_check", "0") == "1",
        default_format=arguments.get("default_format") or headers.get("X-ClickHouse-Format", "TabSeparated"),
    )


class Decoder:
    """Decodes a body in parts, of Content-Encoding identity, gzip, deflate, zstd or lz4.

    Clients send many frames one after another (one per block), so the end of a frame begins
    the next. Raises Failed for an encoding that is none of these.
    """

    def __init__(self, encoding: str) -> None:
        if encoding not in _DECODERS:
            raise failed(UNKNOWN_COMPRESSION_METHOD, f"Unknown compression method: {encoding}")
        self._encoding = encoding
        self._decoder: _Decompressor | None = None

    def decode(self, part: bytes) -> bytes:
        """The decoded bytes of one part. Raises Failed when the part is not of the encoding."""
        if _DECODERS[self._encoding] is None:
            return part
        decoded = []
        while part:
            if self._decoder is None:
                self._decoder = self._fresh()
            try:
                decoded.append(self._decoder.decompress(part))
            except (RuntimeError, EOFError, ValueError, zlib.error, zstd.ZstdError) as e:
                raise failed(INCORRECT_DATA, f"The body is not {self._encoding}: {e}.") from e
            part = b""
            if self._decoder.eof:
                part = self._decoder.unused_data or b""
                self._decoder = None
        return b"".join(decoded)

    def finish(self) -> None:
        """To be called after the last part. Raises Failed when the body was cut inside a frame."""
        if self._decoder is not None:
            raise failed(INCORRECT_DATA, f"The {self._encoding} body ends in the middle of a frame.")

    def _fresh(self) -> _Decompressor:
        make = _DECODERS[self._encoding]
        assert make is not None
        return make()


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes | None: ...
    def decompress(self, data: bytes, /) -> bytes: ...


class _Factory(Protocol):
    def __call__(self) -> _Decompressor: ...


_DECODERS: dict[str, _Factory | None] = {
    "": None,
    "identity": None,
    "gzip": lambda: zlib.decompressobj(31),
    "deflate": lambda: zlib.decompressobj(15),
    "zstd": lambda: zstd.ZstdDecompressor(),
}
if lz4_frame is not None:
    _DECODERS["lz4"] = lambda: lz4_frame.LZ4FrameDecompressor()
