"""PDUs that no provider should send, but that some send. Rules only."""

from __future__ import annotations

from engine.providers.smpp.codes import Command
from engine.providers.smpp.pdu import pack

# No client has a request of this number open: they count up from 1.
_STRANGE = 0x7FFF_FFF0

# A client sees that one of the first two is wrong. It no longer knows where the next PDU
# begins, so it has to close the connection. It must survive all others.
FORMS: tuple[bytes, ...] = (
    # command_length less than the header's, and more than any PDU has.
    b"\0\0\0\x08\x80\0\0\x04",
    b"\x7f\xff\xff\xff\x80\0\0\x04\0\0\0\0\0\0\0\x01",
    # A command that does not exist.
    pack(0x0000_0ABC, 0, _STRANGE, b"abc"),
    # An answer to no request, and one whose message id has no end.
    pack(Command.submit_sm_resp, 0, _STRANGE, b"00000000deadbeef\0"),
    pack(Command.submit_sm_resp, 0, _STRANGE, b"00000000deadbeef"),
    # A deliver_sm without a body; one that ends within an address; a receipt with a text shorter
    # than sm_length, and one with an optional parameter longer than what is left: neither has an id.
    pack(Command.deliver_sm, 0, _STRANGE),
    pack(Command.deliver_sm, 0, _STRANGE, b"\0\x01\x01989120"),
    pack(Command.deliver_sm, 0, _STRANGE, b"\0\x01\x011\0\x05\0Demo\0\x04\0\0\0\0\0\0\0\0\xc8id:"),
    pack(
        Command.deliver_sm, 0, _STRANGE, b"\0\x01\x011\0\x05\0Demo\0\x04\0\0\0\0\0\0\0\0\0\x00\x1e\x01\x001"
    ),
)
