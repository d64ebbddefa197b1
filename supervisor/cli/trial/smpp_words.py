"""Rule: a PDU of SMPP 3.4 as names and values for people, in the order of the wire (chapter 4)."""

from __future__ import annotations

from engine.providers.masking import printable
from engine.providers.smpp.codes import ANSWER, Command, CommandStatus, MessageState, Tag
from engine.providers.smpp.pdu import Pdu

# "s": a string that ends with an octet 0; "o": one octet; "t": the text, sm_length octets long.
_ADDRESSES = (
    "source_addr_ton:o source_addr_npi:o source_addr:s dest_addr_ton:o dest_addr_npi:o destination_addr:s "
)
_BIND = "system_id:s password:s system_type:s interface_version:o addr_ton:o addr_npi:o address_range:s"
_MESSAGE = (
    f"service_type:s {_ADDRESSES}esm_class:o protocol_id:o priority_flag:o schedule_delivery_time:s "
    "validity_period:s registered_delivery:o replace_if_present_flag:o data_coding:o sm_default_msg_id:o "
    "sm_length:o short_message:t"
)
_LAYOUTS: dict[int, str] = {
    Command.bind_receiver: _BIND,
    Command.bind_transmitter: _BIND,
    Command.bind_transceiver: _BIND,
    Command.bind_receiver_resp: "system_id:s",
    Command.bind_transmitter_resp: "system_id:s",
    Command.bind_transceiver_resp: "system_id:s",
    Command.submit_sm: _MESSAGE,
    Command.deliver_sm: _MESSAGE,
    Command.submit_sm_resp: "message_id:s",
    Command.deliver_sm_resp: "message_id:s",
    Command.data_sm_resp: "message_id:s",
    Command.data_sm: f"service_type:s {_ADDRESSES}esm_class:o registered_delivery:o data_coding:o",
}
# Commands whose body holds the provider's secret.
SECRET = frozenset({Command.bind_receiver, Command.bind_transmitter, Command.bind_transceiver})
_CODINGS = {
    0: "the provider's default alphabet, as a rule GSM-7", 1: "ASCII", 3: "Latin-1", 4: "octets", 8: "UCS-2",
}  # fmt: skip
_TON = {0: "unknown", 1: "international", 2: "national", 3: "network", 4: "subscriber", 5: "alphanumeric"}
_NPI = {0: "unknown", 1: "E.164"}
_ESM_TYPES = {0x04: "a receipt", 0x08: "a delivery acknowledgement", 0x20: "an intermediate notification"}

MEANINGS: dict[int, str] = {
    CommandStatus.ESME_ROK: "done",
    CommandStatus.ESME_RINVMSGLEN: "the text is too long, or its length is wrong",
    CommandStatus.ESME_RINVCMDLEN: "the PDU has a wrong length",
    CommandStatus.ESME_RINVCMDID: "the provider does not know this command",
    CommandStatus.ESME_RINVBNDSTS: "this session is bound in a way that does not allow it: see `bind`",
    CommandStatus.ESME_RALYBND: "already bound: the provider allows no further session of this system_id",
    CommandStatus.ESME_RINVPRTFLG: "the priority is not allowed",
    CommandStatus.ESME_RINVREGDLVFLG: "receipts may not be asked for in this way: see `receipts`",
    CommandStatus.ESME_RSYSERR: "an error inside the provider",
    CommandStatus.ESME_RINVSRCADR: "the sender is not allowed",
    CommandStatus.ESME_RINVDSTADR: "the recipient's number is not one that the provider serves",
    CommandStatus.ESME_RINVMSGID: "the message id is wrong",
    CommandStatus.ESME_RBINDFAIL: "no bind: often too many sessions, or an address that is not allowed",
    CommandStatus.ESME_RINVPASWD: "the password is wrong",
    CommandStatus.ESME_RINVSYSID: "the system_id is wrong",
    CommandStatus.ESME_RMSGQFUL: "the provider's queue is full: the same message may be sent later",
    CommandStatus.ESME_RINVSERTYP: "the service_type is wrong",
    CommandStatus.ESME_RINVESMCLASS: "the esm_class is wrong: see `concatenation`",
    CommandStatus.ESME_RSUBMITFAIL: "the provider could not take the message",
    CommandStatus.ESME_RINVSRCTON: "the type of the sender's number is wrong: see `source_ton`",
    CommandStatus.ESME_RINVSRCNPI: "the plan of the sender's number is wrong: see `source_npi`",
    CommandStatus.ESME_RINVDSTTON: "the type of the recipient's number is wrong: see `destination_ton`",
    CommandStatus.ESME_RINVDSTNPI: "the plan of the recipient's number is wrong: see `destination_npi`",
    CommandStatus.ESME_RINVSYSTYP: "the system_type is wrong",
    CommandStatus.ESME_RTHROTTLED: "too much at once: the same message may be sent later",
    CommandStatus.ESME_RINVSCHED: "the time of delivery is wrong",
    CommandStatus.ESME_RINVEXPIRY: "the validity period is wrong",
    CommandStatus.ESME_RX_T_APPN: "not now: the same may be sent again",
    CommandStatus.ESME_RX_P_APPN: "never: the same must not be sent again",
    CommandStatus.ESME_RX_R_APPN: "refused",
    CommandStatus.ESME_RUNKNOWNERR: "an error that the provider does not explain",
}


def command_name(command_id: int) -> str:
    """The name of a command, or its number in hex."""
    try:
        return Command(command_id).name
    except ValueError:
        return f"command 0x{command_id:08X}"


def status_words(status: int) -> str:
    """Number, name and meaning of a status."""
    try:
        name = f"0x{status:08X} {CommandStatus(status).name}"
    except ValueError:
        return f"0x{status:08X}  not in SMPP 3.4: ask the provider for its list of codes"
    meaning = MEANINGS.get(status)
    return f"{name}: {meaning}" if meaning else name


def fields_of(pdu: Pdu) -> dict[str, str]:
    """The fields of a PDU: `command_status` of answers first, optional parameters last.

    What does not fit the layout is under `rest`, in hex. A password is masked.
    """
    fields: dict[str, str] = {}
    if pdu.command_id & ANSWER:
        fields["command_status"] = status_words(pdu.status)
    body, at, length = pdu.body, 0, 0
    layout = _LAYOUTS.get(pdu.command_id, "")
    for name, _, kind in (field.partition(":") for field in layout.split()):
        if at >= len(body) and kind != "t":
            break
        if kind == "s":
            end = body.find(b"\0", at)
            end = len(body) if end < 0 else end
            fields[name] = "***" if name == "password" else string(body[at:end])
            at = end + 1
        elif kind == "o":
            length = body[at]
            fields[name] = _octet(name, length)
            at += 1
        else:
            fields[name] = _text(body[at : at + length])
            at += length
    _parameters(fields, body[at:])
    return fields


def string(octets: bytes) -> str:
    """A string of the wire, in quotes."""
    return f'"{printable(octets.decode("latin-1"))}"'


def _text(octets: bytes) -> str:
    """As a string when it is plain ASCII, else in hex."""
    return string(octets) if all(0x20 <= octet < 0x7F for octet in octets) else octets.hex()


def _octet(name: str, value: int) -> str:
    words = ""
    if name == "data_coding":
        words = _CODINGS.get(value, "")
    elif name.endswith("_ton"):
        words = _TON.get(value, "")
    elif name.endswith("_npi"):
        words = _NPI.get(value, "")
    elif name == "esm_class":
        header = ["a header in the text"] if value & 0x40 else []
        words = ", ".join([*filter(None, [_ESM_TYPES.get(value & 0x3C, "")]), *header])
    elif name == "registered_delivery":
        words = {0: "no receipt is asked for", 1: "a receipt is asked for"}.get(value & 3, "")
    shown = str(value) if name == "sm_length" else f"0x{value:02X}"
    return f"{shown} {words}".rstrip()


def _parameters(fields: dict[str, str], octets: bytes) -> None:
    """Optional parameters (5.3): tag and length of two octets each, then the value."""
    at = 0
    while at + 4 <= len(octets):
        tag, length = (
            int.from_bytes(octets[at : at + 2], "big"),
            int.from_bytes(octets[at + 2 : at + 4], "big"),
        )
        value = octets[at + 4 : at + 4 + length]
        if len(value) < length:
            break
        fields[_tag(tag)] = _parameter(tag, value)
        at += 4 + length
    if rest := octets[at:]:
        fields["rest"] = f"{rest.hex()} (does not fit the layout)"


def _tag(tag: int) -> str:
    try:
        return f"{Tag(tag).name} (0x{tag:04X})"
    except ValueError:
        return f"parameter 0x{tag:04X}"


def _parameter(tag: int, value: bytes) -> str:
    if tag == Tag.receipted_message_id:
        return string(value.rstrip(b"\0"))
    if tag == Tag.message_state and len(value) == 1:
        try:
            return f"{value[0]} {MessageState(value[0]).name}"
        except ValueError:
            return str(value[0])
    return value.hex()
