"""Bodies of the PDUs of SMPP 3.4 that an SMS sender exchanges with a provider.

Strings are Latin-1, whatever the specification calls them, so that every octet has its
character and none is lost. Sizes are those of 4.1 to 4.7 and 5.2, in octets with the NUL
that ends a string. Bodies that are written keep to them; only a system_id and a password may have 64
octets instead of 16 and 9, since some providers give out longer ones. They are limits for writing, not for
reading. The border of what is read is the PDU's own, command_length:

    strings              of any length, up to their NUL
    short_message        sm_length octets, or what is left when sm_length says more
    optional parameters  those that are whole; what remains behind the last whole one is nothing:
                         a NUL that sm_length did not count, or a parameter cut short. A length that
                         is wrong by the NUL at a string's end is put right, where all that follows
                         then is whole and of a tag that the specification knows
    message id           255 octets, and the NUL may be missing: an answer that accepts a message
                         must never be thrown away for its form
    bind answer          not read at all: the status in its header says everything

A body that ends before its short_message begins cannot be read. Encoders raise ValueError, which
names the field. Decoders raise WrongPdu and nothing else.
"""

from __future__ import annotations

import struct
from struct import Struct

import msgspec

from engine.providers.smpp.codes import CommandStatus, Tag
from engine.providers.smpp.pdu import WrongPdu

SYSTEM_ID_OCTETS = 64
PASSWORD_OCTETS = 64
SYSTEM_TYPE_OCTETS = 13
ADDRESS_RANGE_OCTETS = 41
SERVICE_TYPE_OCTETS = 6
ADDRESS_OCTETS = 21
TIME_OCTETS = 17
SHORT_MESSAGE_OCTETS_MAX = 254
MESSAGE_ID_OCTETS = 65
MESSAGE_ID_OCTETS_READ = 255
PARAMETER_OCTETS_MAX = 65_535
# What some providers write around a message id, in their answer or in its receipt only.
AROUND_IDS = " \t\r\n\"'"

_TWO = Struct(">BB")
_THREE = Struct(">BBB")
_FIVE = Struct(">BBBBB")
_TAG_LENGTH = Struct(">HH")
_TAGS = frozenset(map(int, Tag))
# Tags that are for each provider to give a meaning (5.3.2).
_VENDORS = range(0x1400, 0x4000)


class Bind(msgspec.Struct, frozen=True):
    """Body of bind_transmitter, bind_receiver and bind_transceiver (4.1)."""

    system_id: str
    password: str = ""
    system_type: str = ""
    interface_version: int = 0x34
    addr_ton: int = 0
    addr_npi: int = 0
    address_range: str = ""

    def encode(self) -> bytes:
        """The body as octets. Raises ValueError naming the field that is too long."""
        return b"".join(
            (
                octets("system_id", self.system_id, SYSTEM_ID_OCTETS),
                octets("password", self.password, PASSWORD_OCTETS),
                octets("system_type", self.system_type, SYSTEM_TYPE_OCTETS),
                _numbers(
                    interface_version=self.interface_version, addr_ton=self.addr_ton, addr_npi=self.addr_npi
                ),
                octets("address_range", self.address_range, ADDRESS_RANGE_OCTETS),
            )
        )


class ShortMessage(msgspec.Struct, frozen=True, gc=False):
    """The body that submit_sm (4.4) and deliver_sm (4.6) share, and in part data_sm (4.7)."""

    service_type: str = ""
    source_ton: int = 0
    source_npi: int = 0
    source: str = ""
    destination_ton: int = 0
    destination_npi: int = 0
    destination: str = ""
    esm_class: int = 0
    protocol_id: int = 0
    priority: int = 0
    schedule_delivery_time: str = ""
    validity_period: str = ""
    registered_delivery: int = 0
    replace_if_present: int = 0
    data_coding: int = 0
    sm_default_msg_id: int = 0
    short_message: bytes = b""
    # Optional parameters, value by tag.
    parameters: dict[int, bytes] = {}


def octets(field: str, text: str, size: int) -> bytes:
    """A C-octet string of at most `size` octets with its NUL. Raises ValueError naming `field`."""
    try:
        raw = text.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f"{field} has a character outside Latin-1.") from None
    if len(raw) >= size:
        raise ValueError(f"{field} is longer than {size - 1} octets.")
    if 0 in raw:
        # A NUL would end the string there, and the rest would be read as other fields.
        raise ValueError(f"{field} has a NUL in it.")
    return raw + b"\0"


def encode_parameters(parameters: dict[int, bytes]) -> bytes:
    """Optional parameters (3.2.4.1) in the order of the dict."""
    parts = []
    for tag, value in parameters.items():
        try:
            parts.append(_TAG_LENGTH.pack(tag, len(value)))
        except struct.error:
            raise ValueError(
                f"parameter {tag:#06x}: tags have 16 bits, values at most {PARAMETER_OCTETS_MAX} octets."
            ) from None
        parts.append(value)
    return b"".join(parts)


def decode_parameters(body: bytes, at: int = 0) -> dict[int, bytes]:
    """Optional parameters from `at` on, up to the last that is whole. One that comes twice counts as it
    came last. Never fails: see the top."""
    parameters: dict[int, bytes] = {}
    begin, end = at, len(body)
    while at + 4 <= end:
        tag, length = _TAG_LENGTH.unpack_from(body, at)
        value_at = at + 4
        at = value_at + length
        if at <= end:
            parameters[tag] = body[value_at:at]
    if at != end and begin + 4 <= end:
        return _realigned(body, begin) or parameters
    return parameters


def _realigned(body: bytes, at: int) -> dict[int, bytes]:
    """The parameters from `at` on when lengths are wrong by one octet: they count a NUL that is not there, or
    do not count one that is. Empty unless all are whole then, up to the body's end.
    """
    parameters: dict[int, bytes] = {}
    end = len(body)
    while at < end and _begins(body, at):
        tag, length = _TAG_LENGTH.unpack_from(body, at)
        value_at = at + 4
        value_end = value_at + length
        if _begins(body, value_end):
            at = value_end
        elif body[value_end : value_end + 1] == b"\0" and _begins(body, value_end + 1):
            at = value_end + 1
        elif value_at < value_end < end and _begins(body, value_end - 1):
            at = value_end - 1
        else:
            return {}
        parameters[tag] = body[value_at : min(at, value_end)]
    return parameters if at == end else {}


def _begins(body: bytes, at: int) -> bool:
    """Whether a parameter begins here that is known and whole, but for one octet; or the body ends."""
    if at + 4 > len(body):
        return at == len(body)
    tag, length = _TAG_LENGTH.unpack_from(body, at)
    return (tag in _TAGS or tag in _VENDORS) and at + 3 + length <= len(body)


def decode_bind(body: bytes) -> Bind:
    """A bind's body; raises WrongPdu."""
    system_id, at = _string(body, 0, "system_id")
    password, at = _string(body, at, "password")
    system_type, at = _string(body, at, "system_type")
    try:
        version, ton, npi = _THREE.unpack_from(body, at)
    except struct.error:
        raise _short("interface_version") from None
    address_range, _ = _string(body, at + 3, "address_range")
    return Bind(system_id, password, system_type, version, ton, npi, address_range)


def encode_bind_resp(system_id: str, parameters: dict[int, bytes] | None = None) -> bytes:
    """The body of a bind's answer. Raises ValueError naming the field."""
    return octets("system_id", system_id, SYSTEM_ID_OCTETS) + encode_parameters(parameters or {})


def encode_short_message(m: ShortMessage) -> bytes:
    """The body of a submit_sm or deliver_sm. Raises ValueError naming the field."""
    text = m.short_message
    if len(text) > SHORT_MESSAGE_OCTETS_MAX:
        raise ValueError(f"short_message is longer than {SHORT_MESSAGE_OCTETS_MAX} octets.")
    try:
        source_types = _TWO.pack(m.source_ton, m.source_npi)
        destination_types = _TWO.pack(m.destination_ton, m.destination_npi)
        before_times = _THREE.pack(m.esm_class, m.protocol_id, m.priority)
        after_times = _FIVE.pack(
            m.registered_delivery, m.replace_if_present, m.data_coding, m.sm_default_msg_id, len(text)
        )
    except struct.error:
        raise _outside_octet(m) from None
    return b"".join(
        (
            octets("service_type", m.service_type, SERVICE_TYPE_OCTETS),
            source_types,
            octets("source", m.source, ADDRESS_OCTETS),
            destination_types,
            octets("destination", m.destination, ADDRESS_OCTETS),
            before_times,
            octets("schedule_delivery_time", m.schedule_delivery_time, TIME_OCTETS),
            octets("validity_period", m.validity_period, TIME_OCTETS),
            after_times,
            text,
            encode_parameters(m.parameters) if m.parameters else b"",
        )
    )


def decode_short_message(body: bytes) -> ShortMessage:
    """The body of a submit_sm or deliver_sm; raises WrongPdu."""
    service, at = _string(body, 0, "service_type")
    try:
        source_ton, source_npi = _TWO.unpack_from(body, at)
        source, at = _string(body, at + 2, "source")
        dest_ton, dest_npi = _TWO.unpack_from(body, at)
        dest, at = _string(body, at + 2, "destination")
        esm_class, protocol_id, priority = _THREE.unpack_from(body, at)
        schedule, at = _string(body, at + 3, "schedule_delivery_time")
        validity, at = _string(body, at, "validity_period")
        registered, replace, data_coding, default_id, length = _FIVE.unpack_from(body, at)
    except struct.error:
        raise _short("a number") from None
    text_at = at + 5
    text_end = text_at + length
    return ShortMessage(
        service,
        source_ton,
        source_npi,
        source,
        dest_ton,
        dest_npi,
        dest,
        esm_class,
        protocol_id,
        priority,
        schedule,
        validity,
        registered,
        replace,
        data_coding,
        default_id,
        body[text_at:text_end],
        decode_parameters(body, text_end) if text_end < len(body) else {},
    )


def decode_data_sm(body: bytes) -> ShortMessage:
    """The body of a data_sm, by which a provider may send receipts too; raises WrongPdu."""
    service, at = _string(body, 0, "service_type")
    try:
        source_ton, source_npi = _TWO.unpack_from(body, at)
        source, at = _string(body, at + 2, "source")
        dest_ton, dest_npi = _TWO.unpack_from(body, at)
        dest, at = _string(body, at + 2, "destination")
        esm_class, registered, data_coding = _THREE.unpack_from(body, at)
    except struct.error:
        raise _short("a number") from None
    return ShortMessage(
        service_type=service,
        source_ton=source_ton,
        source_npi=source_npi,
        source=source,
        destination_ton=dest_ton,
        destination_npi=dest_npi,
        destination=dest,
        esm_class=esm_class,
        registered_delivery=registered,
        data_coding=data_coding,
        parameters=decode_parameters(body, at + 3),
    )


def encode_message_id(message_id: str) -> bytes:
    """The body of a submit_sm_resp, deliver_sm_resp or data_sm_resp. Raises ValueError."""
    return octets("message_id", message_id, MESSAGE_ID_OCTETS)


def decode_message_id(body: bytes) -> str:
    """The id in the answer to a submit_sm; "" in one without a body. Never fails: see the top."""
    end = body.find(0, 0, MESSAGE_ID_OCTETS_READ)
    return body[: end if end >= 0 else MESSAGE_ID_OCTETS_READ - 1].decode("latin-1")


def _string(body: bytes, at: int, field: str) -> tuple[str, int]:
    """The C-octet string at `at`, and where the next field begins."""
    end = body.find(0, at)
    if end < 0:
        raise _short(field)
    return body[at:end].decode("latin-1"), end + 1


def _short(field: str) -> WrongPdu:
    return WrongPdu(f"The PDU ends within {field}.", status=CommandStatus.ESME_RINVCMDLEN)


def _numbers(**values: int) -> bytes:
    for field, value in values.items():
        if not 0 <= value <= 255:
            raise ValueError(f"{field} is {value}; allowed are 0 to 255.")
    return bytes(values.values())


def _outside_octet(m: ShortMessage) -> ValueError:
    for field in m.__struct_fields__:
        value = getattr(m, field)
        if isinstance(value, int) and not 0 <= value <= 255:
            return ValueError(f"{field} is {value}; allowed are 0 to 255.")
    return ValueError("A field is no number.")
