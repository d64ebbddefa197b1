"""What an operator writes in a `[[providers]]` section, one record for each `type`.

The kinds differ by the key `type`. The bounds of a number stand beside it; what depends on
more than one setting is checked by `wrong_setting`. So a provider is only ever built from
settings that can work.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from engine.providers.states import StatesTable

# One octet of a PDU.
Octet = Annotated[int, Meta(ge=0, le=255)]
Connections = Annotated[int, Meta(ge=1, le=10_000)]


class _Provider(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    # In routes, activity and logs; letters, digits, "-" and "_".
    name: str
    # No answer by then makes the outcome unknown, seconds.
    timeout_s: Annotated[float, Meta(gt=0, le=1800)] = 10.0
    # Segments per second, shared by all workers of all nodes; None: unlimited.
    throughput: Annotated[float, Meta(ge=0.01, le=1_000_000)] | None = None
    # Share of the throughput kept for express while express needs it, 0 to 1.
    express_share: Annotated[float, Meta(ge=0, le=1)] = 0.2
    # Opens the circuit: so many failures one after another.
    breaker_failures: Annotated[int, Meta(ge=1, le=100_000)] = 10
    # How long an open circuit waits before it lets one message through to try, seconds;
    # doubles, up to a minute, while that fails.
    breaker_pause_s: Annotated[float, Meta(ge=0.05, le=60)] = 2.0
    # How the ids of receipts are written, compared with those given when a message was taken:
    # "auto" tries every base and compares the recipient's number too.
    receipt_ids: Literal["auto", "same", "hex-to-decimal", "decimal-to-hex"] = "auto"
    # What each receipt is about: a "segment" with an id of its own; or the whole "message", for a provider
    # that gives ids to all segments and then sends one receipt, with the id of the first or the last.
    receipts_per: Literal["segment", "message"] = "segment"


class SimulatedSettings(_Provider, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="simulated"):
    """The provider that comes with the engine, for tests and trials: `smsengine simulator`."""

    # Base URL, e.g. http://127.0.0.1:8090. "": the embedded simulator.
    url: str = ""
    # Connections kept per worker process.
    connections_max: Connections = 256


class DataCodings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The data_coding that is written for each way to write a text (SMPP 3.4, 5.2.19)."""

    # The provider's default alphabet; Latin-1 beside it; UTF-16, the high octet first. Some providers want
    # another number for the same octets, such as 1 for the default alphabet or 24 for UCS-2.
    default: Octet = 0
    latin1: Octet = 3
    ucs2: Octet = 8


class SmppSettings(_Provider, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="smpp"):
    """SMPP 3.4. Every worker process binds `sessions` times."""

    host: str
    port: Annotated[int, Meta(ge=1, le=65535)] = 2775
    system_id: str
    # One of the two; the file's first line, read when the provider is built.
    password: str = ""
    password_file: str = ""
    system_type: str = ""
    # How a session binds. "separate": one transmitter and one receiver each.
    bind: Literal["transceiver", "transmitter", "separate"] = "transceiver"
    # Sessions per worker process, and submits in flight per session.
    sessions: Annotated[int, Meta(ge=1, le=100)] = 1
    window: Annotated[int, Meta(ge=1, le=10_000)] = 100
    tls: bool = False
    # File of certificates that are trusted instead of the system's; "": the system's.
    tls_ca_file: str = ""
    # Idle for so long, a session is asked whether it lives, seconds.
    enquire_link_s: Annotated[float, Meta(ge=0.1, le=3600)] = 30.0
    # Pause before a session is bound again, doubling up to the second with jitter, seconds.
    reconnect_s: Annotated[float, Meta(gt=0, le=3600)] = 0.5
    reconnect_max_s: Annotated[float, Meta(gt=0, le=86400)] = 30.0
    # How a long message goes: segments joined by a header in the text, by optional
    # parameters, or whole in the parameter message_payload.
    concatenation: Literal["udh", "sar", "payload"] = "udh"
    # The provider's default alphabet, in which it reads our octets under data_coding 0 and writes its
    # receipts. Where it is no GSM-7, "@" as octet 00 would end the text, and "_" as 11 would be lost.
    default_alphabet: Literal["gsm7", "latin1", "ascii"] = "gsm7"
    # How GSM-7 text is written: in the default alphabet, an octet for each character or septet; in
    # septets packed to octets; or always as Latin-1 with a data_coding of its own.
    gsm7: Literal["unpacked", "packed", "latin1"] = "unpacked"
    # The data_coding of each way to write a text.
    data_coding: DataCodings = DataCodings()
    # How the time that is left to deliver a message is written: as a duration; as a point in time, for a
    # provider that reads no other (its clock counts then); not at all, for one that refuses both with
    # 0x62. Without it the provider may deliver after the message's validity.
    validity_period: Literal["relative", "absolute", "none"] = "relative"
    # Type of number and numbering plan; source None: by the sender's form.
    source_ton: Octet | None = None
    source_npi: Octet | None = None
    destination_ton: Octet = 1
    destination_npi: Octet = 1
    service_type: str = ""
    # Ask for receipts (registered_delivery).
    receipts: bool = True
    # Words of the text and numbers of message_state that mean something else with this provider than in
    # the standard, or are its own. Words are compared in upper case.
    states: StatesTable = StatesTable()
    # Take a text in the form of a receipt for one, although esm_class and parameters do not say so. Off,
    # because whoever can send a text to our numbers could then write receipts.
    receipts_by_text: bool = False
    # Where the id of a receipt is read first: in the parameter receipted_message_id or in the text. Some
    # providers write another id in each, and only one of them is what they gave for the message.
    receipt_id_from: Literal["parameter", "text"] = "parameter"
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
    connections_max: Connections = 64
    # File of certificates that are trusted instead of the system's; "": the system's.
    tls_ca_file: str = ""
    # Where this engine is reached by the provider, e.g. https://sms.example.org; for receipts.
    public_url: str = ""
    # Word in the path of the receipts' address that only the provider knows; or a file with it.
    receipt_token: str = ""
    receipt_token_file: str = ""
    # Overrides of the preset, key by key: request, answer, receipt, inbound.
    request: dict[str, Any] = {}
    answer: dict[str, Any] = {}
    receipt: dict[str, Any] = {}
    # Messages that recipients write; they come to the address of the receipts with "inbound" in its place.
    inbound: dict[str, Any] = {}


class CustomSettings(_Provider, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="custom"):
    """A provider from somebody else's module: see docs/providers.md."""

    # "package.module:function"; called with (name, timeout_s, options, receipts).
    factory: str
    options: dict[str, Any] = {}


ProviderSettings = SimulatedSettings | SmppSettings | HttpSettings | CustomSettings


def sends_max(p: ProviderSettings) -> int | None:
    """How many sends one process may have in flight with it; None: it has no bound that is known here."""
    match p:
        case SimulatedSettings() | HttpSettings():
            return p.connections_max
        case SmppSettings():
            return p.sessions * p.window
        case CustomSettings():
            return None


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
    return [
        ("name", plain, "1 to 64 letters, digits, '-' and '_'"),
        ("timeout_s", p.timeout_s <= timeout_s_max, "greater than 0 and at most half of take_over_s"),
    ]


def _of_kind(p: ProviderSettings) -> list[tuple[str, bool, str]]:
    match p:
        case SimulatedSettings() | HttpSettings():
            return []
        case SmppSettings():
            return _of_smpp(p)
        case CustomSettings():
            module, colon, function = p.factory.partition(":")
            return [("factory", bool(module and colon and function), "package.module:function")]


def _of_smpp(p: SmppSettings) -> list[tuple[str, bool, str]]:
    # Sizes of the fields: SMPP 3.4, 5.2, less the octet that ends a string.
    return [
        ("host", _is_host(p.host), "a host name or an address, without a scheme, a port or brackets"),
        # 15 and 8 by the specification; some providers give out longer ones.
        ("system_id", 0 < len(p.system_id) <= 63, "1 to 63 characters"),
        ("password", not (p.password and p.password_file), "given once, or password_file"),
        ("password", len(p.password) <= 63, "at most 63 characters"),
        ("system_type", len(p.system_type) <= 12, "at most 12 characters"),
        ("reconnect_s", p.reconnect_s <= p.reconnect_max_s, "at most reconnect_max_s"),
        (
            "gsm7",
            p.gsm7 != "packed" or p.default_alphabet == "gsm7",
            f'"unpacked" or "latin1" with default_alphabet "{p.default_alphabet}": only GSM-7 is packed',
        ),
    ]


def _is_host(text: str) -> bool:
    """Whether a text may be a host's name or address; "host:port" and "smpp://host" are none."""
    try:
        ip_address(text)
    except ValueError:
        return bool(text) and not any(c in ":/@[]" or c.isspace() for c in text)
    return True
