"""What an operator writes in a `[[providers]]` section, one record for each `type`.

The kinds differ by the key `type`. Bounds are checked here, so that a provider is only
ever built from settings that can work.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class _Provider(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    # In routes, activity and metrics; letters, digits, "-" and "_".
    name: str
    # No answer by then makes the outcome unknown, seconds.
    timeout_s: float = 10.0
    # Segments per second, shared by all workers of all nodes; None: unlimited.
    throughput: float | None = None
    # Share of the throughput kept for express while express needs it, 0 to 1.
    express_share: float = 0.2
    # Opens the circuit: so many failures one after another.
    breaker_failures: int = 10
    # How long an open circuit waits before it lets one message through to try, seconds;
    # doubles, up to a minute, while that fails.
    breaker_pause_s: float = 2.0
    # How the ids of receipts are written, compared with those given when a message was taken:
    # "auto" tries every base and compares the recipient's number too.
    receipt_ids: Literal["auto", "same", "hex-to-decimal", "decimal-to-hex"] = "auto"


class SimulatedSettings(_Provider, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="simulated"):
    # Base URL, e.g. http://127.0.0.1:8090. "": the embedded simulator.
    url: str = ""
    # Connections kept per worker process.
    connections_max: int = 256


class SmppSettings(_Provider, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="smpp"):
    """SMPP 3.4. Every worker process binds `sessions` times."""

    host: str
    port: int = 2775
    system_id: str
    # One of the two; the file's first line, read when the provider is built.
    password: str = ""
    password_file: str = ""
    system_type: str = ""
    # How a session binds. "separate": one transmitter and one receiver each.
    bind: Literal["transceiver", "transmitter", "separate"] = "transceiver"
    # Sessions per worker process, and submits in flight per session.
    sessions: int = 1
    window: int = 100
    tls: bool = False
    # File of certificates that are trusted instead of the system's; "": the system's.
    tls_ca_file: str = ""
    # Idle for so long, a session is asked whether it lives, seconds.
    enquire_link_s: float = 30.0
    # Pause before a session is bound again, doubling up to the second with jitter, seconds.
    reconnect_s: float = 0.5
    reconnect_max_s: float = 30.0
    # How a long message goes: segments joined by a header in the text, by optional
    # parameters, or whole in the parameter message_payload.
    concatenation: Literal["udh", "sar", "payload"] = "udh"
    # Encoding of GSM-7 text on this provider's wire: its own code points (SMSC default
    # alphabet, one octet each), the same packed to 7 bits, or Latin-1 (data_coding 3).
    gsm7: Literal["unpacked", "packed", "latin1"] = "unpacked"
    # Type of number and numbering plan; source None: by the sender's form.
    source_ton: int | None = None
    source_npi: int | None = None
    destination_ton: int = 1
    destination_npi: int = 1
    service_type: str = ""
    # Ask for receipts (registered_delivery).
    receipts: bool = True
    # Optional parameters of every submit_sm, by tag in hex ("1400"), values in hex.
    parameters: dict[str, str] = {}
    # Tag of an optional parameter that is to carry our own id of the message; "": none.
    message_id_parameter: str = ""


class HttpSettings(_Provider, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="http"):
    """A provider's HTTP API. A preset fills what is not given; see `engine.providers.presets`."""

    preset: str = ""
    url: str = ""
    username: str = ""
    password: str = ""
    password_file: str = ""
    # The sender when a message names none.
    sender: str = ""
    connections_max: int = 64
    # File of certificates that are trusted instead of the system's; "": the system's.
    tls_ca_file: str = ""
    # Where this engine is reached by the provider, e.g. https://sms.example.org; for receipts.
    public_url: str = ""
    # Word in the path of the receipts' address that only the provider knows; or a file with it.
    receipt_token: str = ""
    receipt_token_file: str = ""
    # Overrides of the preset, key by key: request, answer, receipt.
    request: dict[str, Any] = {}
    answer: dict[str, Any] = {}
    receipt: dict[str, Any] = {}


class CustomSettings(_Provider, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="custom"):
    """A provider from somebody else's module: see docs/providers.md."""

    # "package.module:function"; called with (name, timeout_s, options, receipts).
    factory: str
    options: dict[str, Any] = {}


ProviderSettings = SimulatedSettings | SmppSettings | HttpSettings | CustomSettings


def needs_simulator(p: ProviderSettings) -> bool:
    """Whether it is to be sent to the simulator that the engine starts itself."""
    return isinstance(p, SimulatedSettings) and not p.url


def wrong_setting(p: ProviderSettings, *, timeout_s_max: float) -> tuple[str, str] | None:
    """The first setting out of bounds and what is allowed; None when all can work."""
    for name, holds, allowed in [*_common(p, timeout_s_max), *_of_kind(p)]:
        if not holds:
            return f"providers.{p.name}.{name}", allowed
    return None


def _common(p: ProviderSettings, timeout_s_max: float) -> list[tuple[str, bool, str]]:
    plain = p.name.isascii() and p.name.replace("-", "").replace("_", "").isalnum() and len(p.name) <= 64
    rate = p.throughput
    return [
        ("name", plain, "1 to 64 letters, digits, '-' and '_'"),
        ("timeout_s", 0 < p.timeout_s <= timeout_s_max, "greater than 0 and at most half of take_over_s"),
        ("throughput", rate is None or 0 < rate <= 1e6, "greater than 0 and at most 1000000"),
        ("express_share", 0 <= p.express_share <= 1, "from 0 to 1"),
        ("breaker_failures", 1 <= p.breaker_failures <= 100_000, "from 1 to 100000"),
        ("breaker_pause_s", 0.05 <= p.breaker_pause_s <= 60, "from 0.05 to 60"),
    ]


def _of_kind(p: ProviderSettings) -> list[tuple[str, bool, str]]:
    match p:
        case SimulatedSettings() | HttpSettings():
            return [("connections_max", 1 <= p.connections_max <= 10_000, "from 1 to 10000")]
        case SmppSettings():
            return _of_smpp(p)
        case CustomSettings():
            module, colon, function = p.factory.partition(":")
            return [("factory", bool(module and colon and function), "package.module:function")]


def _of_smpp(p: SmppSettings) -> list[tuple[str, bool, str]]:
    # Sizes of the fields: SMPP 3.4, 5.2, less the octet that ends a string.
    return [
        ("host", bool(p.host), "a host name or an address"),
        ("port", 0 < p.port < 65536, "from 1 to 65535"),
        ("system_id", 0 < len(p.system_id) <= 15, "1 to 15 characters"),
        ("password", not (p.password and p.password_file), "given once, or password_file"),
        # 8 by the specification; some providers give out longer ones.
        ("password", len(p.password) <= 63, "at most 63 characters"),
        ("system_type", len(p.system_type) <= 12, "at most 12 characters"),
        ("sessions", 1 <= p.sessions <= 100, "from 1 to 100"),
        ("window", 1 <= p.window <= 10_000, "from 1 to 10000"),
        ("enquire_link_s", 0.1 <= p.enquire_link_s <= 3600, "from 0.1 to 3600"),
        ("reconnect_s", 0 < p.reconnect_s <= p.reconnect_max_s, "at most reconnect_max_s"),
    ]
