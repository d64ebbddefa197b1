"""A request's description compiled, so that per message only its own values are encoded.

Compiling makes one pattern for each kind of message that the description may treat
differently: by encoding (`when_gsm7`, `when_ucs2`) and by what the message lacks (a
sender, a reference). Building is then one `%` of bytes for the path, the headers and
the body each. Nothing of a message can change the shape of the request: every value is
escaped for its place (see `escapes`).
"""

from __future__ import annotations

import base64
import re
from itertools import product
from typing import Any, Literal, NamedTuple

import msgspec

from engine import __version__
from engine.errors import ConfigError
from engine.providers.http.escapes import escape_text, escape_url
from engine.providers.http.pattern import PatternWriter, Pieces
from engine.providers.http.placeholders import Fill, Filled, NumberRules, Placeholders
from engine.providers.http.tables import merged, shown
from engine.records import Message

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# The pool sets these. Given twice, the two ends could disagree where a request ends.
_OURS = ("connection", "content-length", "host", "transfer-encoding")
# Some firewalls refuse who does not say what he is; some servers pack what they are not asked to.
_ALWAYS: dict[str, tuple[str, Pieces]] = {
    "user-agent": ("User-Agent", (f"smsengine/{__version__}",)),
    "accept-encoding": ("Accept-Encoding", ("identity",)),
}
_CONTENT_TYPES = {
    "json": "application/json",
    "form": "application/x-www-form-urlencoded",
    "text": "text/plain; charset=utf-8",
}


class WhenTable(msgspec.Struct, frozen=True, kw_only=True):
    """What is laid over the request in some cases."""

    headers: dict[str, str] = {}
    query: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    text: str | None = None


class RequestTable(msgspec.Struct, frozen=True, kw_only=True):
    """The table `providers.NAME.request`; its texts may hold placeholders (`placeholders`)."""

    method: Literal["GET", "POST", "PUT"] = "POST"
    # Appended to the path of the provider's url.
    path: str = ""
    # Parameters of the URL, besides the fields.
    query: dict[str, Any] = {}
    headers: dict[str, str] = {}
    # basic: username and password; bearer: the password is the token.
    auth: Literal["none", "basic", "bearer"] = "none"
    # Where the fields go: a JSON object, a form, the URL's query; text: `text` is the body.
    body: Literal["json", "form", "query", "text"] = "json"
    fields: dict[str, Any] = {}
    text: str = ""
    # "": that of the body.
    content_type: str = ""
    # By the beginning of a number, what {to} has in its place; the longest that matches counts.
    rewrite_to: dict[str, str] = {}
    # Bounds of the validity that is told to the provider, seconds.
    validity_min_s: int = 1
    validity_max_s: int = 7 * 86400
    # First, when the settings give the receipts an address ({receipt_url}).
    when_receipts: WhenTable = WhenTable()
    # Then by the message's encoding.
    when_gsm7: WhenTable = WhenTable()
    when_ucs2: WhenTable = WhenTable()


class Fixed(NamedTuple):
    """What the settings give to every request."""

    provider: str
    # Path of the provider's url, without the slash at its end.
    base_path: str = ""
    username: str = ""
    password: str = ""
    receipt_url: str = ""
    sender: str = ""


class BuiltRequest(NamedTuple):
    """A request as bytes, ready for `HttpPool.request`."""

    path: bytes
    # Whole lines, each ended by CRLF.
    headers: bytes
    body: bytes


class RequestTemplate:
    """Builds the request of each message.

    Raises ConfigError when the description cannot work, naming the setting: `where` is the
    name of the table, e.g. "providers.acme.request".
    """

    def __init__(self, table: RequestTable, fixed: Fixed, where: str) -> None:
        _check(table, where)
        self.method = table.method.encode()
        self._patterns = [
            _Compiler(table, fixed, where, ucs2=ucs2, lacks_sender=no_sender, lacks_reference=no_reference)
            .compile()
            for ucs2, no_sender, no_reference in product((False, True), repeat=3)
        ]  # fmt: skip

    def build(self, message: Message, now_us: int) -> BuiltRequest:
        """The request for a message; `now_us` is UTC, microseconds since 1970.

        Raises Unencodable when the message has characters that a header cannot carry.
        """
        kind = 4 * (message.encoding == "UCS-2") + 2 * (not message.sender) + (not message.reference)
        path, headers, body = self._patterns[kind]
        return BuiltRequest(path(message, now_us), headers(message, now_us), body(message, now_us))


def _check(table: RequestTable, where: str) -> None:
    parts = (table, table.when_receipts, table.when_gsm7, table.when_ucs2)
    texts = any(part.text for part in parts)
    fields = any(part.fields for part in parts)
    for holds, setting, allowed in (
        (1 <= table.validity_min_s <= table.validity_max_s, "validity_min_s", "from 1 to validity_max_s"),
        (not (table.body == "text" and fields), "fields", "left out: the body is 'text'"),
        (table.body == "text" or not texts, "text", "left out unless the body is 'text'"),
        (table.method != "GET" or table.body == "query", "body", "'query' when the method is GET"),
    ):
        if not holds:
            raise ConfigError(f"{where}.{setting} must be {allowed}.")


class _Compiler:
    """One kind of message: its three patterns."""

    def __init__(
        self,
        table: RequestTable,
        fixed: Fixed,
        where: str,
        *,
        ucs2: bool,
        lacks_sender: bool,
        lacks_reference: bool,
    ) -> None:
        self._table, self._fixed, self._where = table, fixed, where
        whens = [table.when_receipts] if fixed.receipt_url else []
        whens.append(table.when_ucs2 if ucs2 else table.when_gsm7)
        self._query, self._lines, self._fields = table.query, table.headers, table.fields
        self._text = table.text
        for when in whens:
            self._query = merged(self._query, when.query)
            self._lines = merged(self._lines, when.headers)
            self._fields = merged(self._fields, when.fields)
            self._text = self._text if when.text is None else when.text
        lacks = {"from": lacks_sender, "reference": lacks_reference}
        self._placeholders = Placeholders(
            fixed._asdict(),
            fixed.sender,
            frozenset(name for name, lacking in lacks.items() if lacking),
            NumberRules(table.rewrite_to, table.validity_min_s, table.validity_max_s),
        )

    def compile(self) -> tuple[Fill, Fill, Fill]:
        return self._path(), self._headers(), self._body()

    def _path(self) -> Fill:
        where = f"{self._where}.path"
        text = self._placeholders.parse(self._table.path, "url", where)
        if text is None:
            raise ConfigError(f"{where} cannot be left out: write its placeholders without '?'.")
        writer = PatternWriter(self._placeholders)
        writer.literal(self._fixed.base_path.encode())
        if not self._table.path:
            writer.literal(b"" if self._fixed.base_path else b"/")
        elif not self._table.path.startswith("/"):
            raise ConfigError(f"{where} must begin with a slash, not {shown(self._table.path)}.")
        for piece in text.pieces:
            if type(piece) is str:
                if not all("!" <= c <= "~" and c not in "?#" for c in piece):
                    raise ConfigError(
                        f"{where} must hold neither blanks nor '?' and '#', not {shown(self._table.path)}; "
                        f"parameters stand in {self._where}.query."
                    )
                writer.literal(piece.encode())
            else:
                writer.pieces((piece,), escape_url)
        parameters = self._query
        if self._table.body == "query":
            parameters = merged(parameters, self._fields)
        query = PatternWriter(self._placeholders)
        query.pairs(parameters, f"{self._where}.{'fields' if self._table.body == 'query' else 'query'}")
        writer.append(b"?", query)
        return writer.pattern()

    def _headers(self) -> Fill:
        writer = PatternWriter(self._placeholders)
        kind = self._table.content_type or _CONTENT_TYPES.get(self._table.body, "")
        lines = dict(_ALWAYS)
        if kind:
            lines["content-type"] = ("Content-Type", (kind,))
        if authorization := self._authorization():
            lines["authorization"] = ("Authorization", (authorization,))
        for name, value in self._lines.items():
            where = f"{self._where}.headers.{name}"
            if not _NAME.fullmatch(name) or name.lower() in _OURS:
                raise ConfigError(f"{where} must be a header's name and none of {', '.join(_OURS)}.")
            text = self._placeholders.parse(value, "header", where)
            lines.pop(name.lower(), None)
            if text is not None:
                lines[name.lower()] = (name, text.pieces)
        for name, pieces in lines.values():
            for piece in pieces:
                if isinstance(piece, str) and not (piece.isascii() and piece.isprintable()):
                    raise ConfigError(f"{self._where}.headers.{name} must be printable ASCII.")
            writer.literal(f"{name}: ".encode())
            writer.pieces(pieces, escape_text)
            writer.literal(b"\r\n")
        return writer.pattern()

    def _authorization(self) -> str:
        username, password = self._fixed.username, self._fixed.password
        match self._table.auth:
            case "bearer":
                if not password:
                    raise ConfigError(
                        f"{self._where}.auth is 'bearer', so password must be given: the token."
                    )
                return Filled(f"Bearer {password}")
            case "basic":
                # RFC 7617, 2: the colon ends the name.
                if not username or ":" in username:
                    raise ConfigError(
                        f"{self._where}.auth is 'basic', so username must be given, without ':'."
                    )
                return Filled("Basic " + base64.b64encode(f"{username}:{password}".encode()).decode())
            case "none":
                return ""

    def _body(self) -> Fill:
        writer = PatternWriter(self._placeholders)
        match self._table.body:
            case "json":
                writer.json(self._fields, f"{self._where}.fields")
            case "form":
                writer.pairs(self._fields, f"{self._where}.fields")
            case "text":
                text = self._placeholders.parse(self._text, "text", f"{self._where}.text")
                writer.pieces(text.pieces if text else (), escape_text)
            case "query":
                pass
        return writer.pattern()
