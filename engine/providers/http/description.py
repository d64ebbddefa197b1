"""A provider of type "http" as its settings and preset describe it, every part compiled.

Nothing is opened here: the API reads receipts by the same description without ever
starting the provider (`receipt_reader`).
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from typing import Any, NamedTuple

from engine.errors import ConfigError
from engine.providers import presets
from engine.providers.http.inbound import InboundRead, InboundReading, InboundTable
from engine.providers.http.receipt import ReceiptReading, ReceiptTable, ReplyTable
from engine.providers.http.recognition import AnswerTable, Recognition
from engine.providers.http.tables import decoded, merged
from engine.providers.http.template import Fixed, RequestTable, RequestTemplate
from engine.providers.http_client.address import Address, parse_address, tls_context
from engine.providers.problems import Problems
from engine.providers.secret import secret
from engine.providers.settings import HttpSettings
from engine.receipts.records import ReceiptsRead

# Only this word keeps strangers from sending receipts, and it stands in a URL.
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,128}")

# method, query of the URL, content type, body, now_us -> receipts; raises nothing.
ReadReceipts = Callable[[str, str, str, bytes, int], ReceiptsRead]


class ReceiptReader(NamedTuple):
    """The word in the address of a provider's receipts, how to read them, and what to answer."""

    # The word that must stand in the path; "": this provider takes no receipts.
    token: str
    read: ReadReceipts
    # What the provider is answered once they are kept.
    reply: ReplyTable
    # Whether a receipt may name a message by the id that it has here.
    has_own_id: bool = True


class InboundReader(NamedTuple):
    """The word in the address of a provider's messages, how to read them, and what to answer."""

    token: str
    # method, query of the URL, content type, body, now_us -> messages; raises nothing.
    read: Callable[[str, str, str, bytes, int], InboundRead]
    reply: ReplyTable


class Description(NamedTuple):
    """All that is needed to send through one provider and to read its answers."""

    address: Address
    ssl_context: ssl.SSLContext | None
    template: RequestTemplate
    recognition: Recognition


def describe(settings: HttpSettings) -> Description:
    """Compile a section. Raises ConfigError naming the setting when it, or its receipts, cannot be used."""
    receipt_reader(settings)
    inbound_reader(settings)
    name = f"providers.{settings.name}"
    preset = _preset(settings)
    url = settings.url or preset.get("url", "")
    if not url:
        raise ConfigError(f"{name}.url must be given: where the provider's API is.")
    address = parse_address(url, f"{name}.url")
    fixed = Fixed(
        provider=settings.name,
        base_path=address.path,
        username=settings.username,
        password=secret(settings.password, settings.password_file, f"{name}.password"),
        receipt_url=_receipt_url(settings),
        sender=settings.sender,
    )
    request = decoded(merged(preset.get("request", {}), settings.request), RequestTable, f"{name}.request")
    answer = decoded(merged(preset.get("answer", {}), settings.answer), AnswerTable, f"{name}.answer")
    return Description(
        address,
        tls_context(address, settings.tls_ca_file, f"{name}.tls_ca_file"),
        RequestTemplate(request, fixed, f"{name}.request"),
        Recognition(answer, f"{name}.answer"),
    )


def receipt_reader(settings: HttpSettings, problems: Problems | None = None) -> ReceiptReader | None:
    """How receipts of this provider are read; None when its section has no receipt table.

    What is not understood in them is noted in `problems`. Raises ConfigError naming the setting.
    """
    name = f"providers.{settings.name}"
    table = merged(_preset(settings).get("receipt", {}), settings.receipt)
    token = _token(settings)
    if not table:
        if token:
            raise ConfigError(f"{name}.receipt must say how receipts are read: there is a receipt_token.")
        return None
    reading = ReceiptReading(
        decoded(table, ReceiptTable, f"{name}.receipt"), settings.name, f"{name}.receipt", problems
    )
    return ReceiptReader(token, reading.read, reading.reply, reading.has_own_id)


def inbound_reader(settings: HttpSettings) -> InboundReader | None:
    """How messages are read that recipients write to this provider's numbers; None when its section has no
    table for them. Raises ConfigError naming the setting."""
    name = f"providers.{settings.name}"
    table = merged(_preset(settings).get("inbound", {}), settings.inbound)
    token = _token(settings)
    if not table or not token:
        if settings.inbound:
            raise ConfigError(f"{name}.receipt_token must be given: it is in the address of messages too.")
        return None
    described = decoded(table, InboundTable, f"{name}.inbound")
    reading = InboundReading(described, settings.name, f"{name}.inbound")
    return InboundReader(token, reading.read, described.reply)


def _preset(settings: HttpSettings) -> dict[str, Any]:
    return presets.load(settings.preset, f"providers.{settings.name}.preset") if settings.preset else {}


def _token(settings: HttpSettings) -> str:
    setting = f"providers.{settings.name}.receipt_token"
    token = secret(settings.receipt_token, settings.receipt_token_file, setting)
    if token and not _TOKEN.fullmatch(token):
        raise ConfigError(f"{setting} must be 16 to 128 letters, digits, '-' and '_'.")
    return token


def _receipt_url(settings: HttpSettings) -> str:
    """The address that providers are given; "" without one."""
    if not settings.public_url:
        return ""
    setting = f"providers.{settings.name}.public_url"
    parse_address(settings.public_url, setting)
    token = _token(settings)
    if not token:
        raise ConfigError(f"{setting} is for receipts, so receipt_token must be given too.")
    return f"{settings.public_url.rstrip('/')}/v1/providers/{settings.name}/receipts/{token}"
