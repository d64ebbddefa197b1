"""What a provider's answer to a submit_sm means for the message: SMPP 3.4, 5.1.3.

    accepted   ESME_ROK
    throttled  too much at once: the provider would take the same message later
    permanent  this message is refused for its destination, sender, length or content: it will
               never be taken, others may
    temporary  everything else: trouble at the provider, the state of the session, a field that is
               the same in every message (then a setting is wrong, not the message), and every
               status that the specification does not know

A status of the vendors' range (0x400 to 0x4FF) or any other that is not known here can mean
anything from "no credit" to "number barred". It is temporary because that is the cheaper mistake:
a message that is given up wrongly is lost, though another provider would have taken it; a message
that is tried again wrongly costs attempts until its validity ends, and is not charged.
"""

from __future__ import annotations

from engine.providers.smpp.codes import CommandStatus
from engine.records import VerdictKind

_THROTTLED = (CommandStatus.ESME_RTHROTTLED, CommandStatus.ESME_RMSGQFUL)
_PERMANENT = (
    CommandStatus.ESME_RINVMSGLEN,
    CommandStatus.ESME_RINVSRCADR,
    CommandStatus.ESME_RINVDSTADR,
    # The types and plans of numbers come from the form of the sender; and providers refuse those of
    # the destination when they do not know its number.
    CommandStatus.ESME_RINVSRCTON,
    CommandStatus.ESME_RINVSRCNPI,
    CommandStatus.ESME_RINVDSTTON,
    CommandStatus.ESME_RINVDSTNPI,
    CommandStatus.ESME_RX_P_APPN,
    CommandStatus.ESME_RX_R_APPN,
)

_KINDS: dict[int, VerdictKind] = {
    CommandStatus.ESME_ROK: "accepted",
    **dict.fromkeys(_THROTTLED, "throttled"),
    **dict.fromkeys(_PERMANENT, "permanent"),
}
_CODES: dict[int, str] = {int(status): f"{status.name} 0x{status:02X}" for status in CommandStatus}


def kind(status: int) -> VerdictKind:
    """The verdict on a message whose submit_sm_resp, or generic_nack, has this status."""
    return _KINDS.get(status, "temporary")


def code(status: int) -> str:
    """For people: "ESME_RTHROTTLED 0x58", or "0x402" where the specification has no name."""
    return _CODES.get(status) or f"0x{status:02X}"
