"""Framing of SMPP 3.4: a stream of octets becomes PDUs, and a PDU octets.

A PDU is four big-endian 32-bit integers (3.2): its length with these, command, status and
sequence number; then the body, which is left as it is here: see `engine.providers.smpp.body`.
Only the length shows where the next PDU begins. A length that cannot be true (below 16, or above
what any PDU of this protocol needs) means that the place in the stream is lost: an answer could
go to the wrong message. The connection cannot be used any more then.
"""

from __future__ import annotations

from struct import Struct

import msgspec

from engine.providers.smpp.codes import CommandStatus

HEADER_BYTES = 16
# The longest is a submit_sm with a message_payload of 64 KiB less one, which no SMS needs.
PDU_BYTES_MAX = 65_536

_HEADER = Struct(">IIII")
_pack_header = _HEADER.pack
unpack_header = _HEADER.unpack_from


class Pdu(msgspec.Struct, frozen=True, gc=False):
    """One PDU, its body undecoded. Any command and any status may come: see `codes`."""

    command_id: int
    status: int
    sequence: int
    body: bytes


class WrongPdu(ValueError):
    """The octets are no PDU of this protocol.

    `status` is the one to answer with (5.1.3), `sequence` that of the PDU, None where it is
    not known: the decoders of bodies do not see the header. `fatal`: the place in the stream
    is lost, and the connection must be closed.
    """

    def __init__(
        self, detail: str, *, status: CommandStatus, sequence: int | None = None, fatal: bool = False
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.sequence = sequence
        self.fatal = fatal


class Reader:
    """Cuts a stream into PDUs; one for each connection.

    It checks only lengths. An unknown command comes out as a Pdu as well, so that the session can
    answer a request of that kind (generic_nack, ESME_RINVCMDID).
    """

    __slots__ = ("_lost", "_needed", "_pending")

    def __init__(self) -> None:
        # The beginning of a PDU, and how many octets there must be before it is looked at again.
        self._pending = bytearray()
        self._needed = HEADER_BYTES
        self._lost = False

    def feed(self, data: bytes | bytearray | memoryview) -> list[Pdu | WrongPdu]:
        """The PDUs that are whole with `data`, in order.

        A WrongPdu is the last of all: it is fatal, and octets that are fed afterwards are
        ignored. Time is linear in the octets that are fed, in whatever pieces they come; at
        most `PDU_BYTES_MAX` octets are kept.
        """
        chunk = self.begin(data)
        found: list[Pdu | WrongPdu] = []
        at = 0
        while (pdu := self.cut(chunk, at)) is not None:
            found.append(pdu)
            if type(pdu) is not Pdu:
                return found
            at += HEADER_BYTES + len(pdu.body)
        self.keep(chunk, at)
        return found

    def cut(self, chunk: bytes, at: int) -> Pdu | WrongPdu | None:
        """The PDU that begins `at` in what `begin` returned; None when it is not whole. A WrongPdu is fatal:
        nothing is kept then."""
        if len(chunk) - at < HEADER_BYTES:
            return None
        length, command_id, status, sequence = unpack_header(chunk, at)
        if not HEADER_BYTES <= length <= PDU_BYTES_MAX:
            return self.lose(length)
        if at + length > len(chunk):
            return None
        return Pdu(command_id, status, sequence, chunk[at + HEADER_BYTES : at + length])

    def begin(self, data: bytes | bytearray | memoryview) -> bytes:
        """The octets to cut into PDUs now that `data` has come; none while the next PDU is not whole. The
        caller does what `feed` does, and tells `keep` where it has stopped, or `lose`."""
        if self._lost:
            return b""
        pending = self._pending
        if pending:
            pending += data
            if len(pending) < self._needed:
                return b""
            chunk = bytes(pending)
            pending.clear()
            return chunk
        # One copy at most; slices of it are then `bytes` too.
        return data if type(data) is bytes else bytes(data)

    def keep(self, chunk: bytes, at: int) -> None:
        """Keep the octets of `chunk` from `at` on: the beginning of a PDU, or nothing."""
        if at < len(chunk):
            self._pending += chunk[at:]
            whole = len(chunk) - at >= HEADER_BYTES
            self._needed = unpack_header(chunk, at)[0] if whole else HEADER_BYTES

    def lose(self, length: int) -> WrongPdu:
        """The place in the stream is lost, because this is no command_length."""
        self._lost = True
        return WrongPdu(
            f"command_length is {length}; allowed are {HEADER_BYTES} to {PDU_BYTES_MAX}.",
            status=CommandStatus.ESME_RINVCMDLEN,
            fatal=True,
        )


def pack(command: int, status: int, sequence: int, body: bytes = b"") -> bytes:
    """One PDU. The caller keeps all three within 32 bits, and `body` within `PDU_BYTES_MAX`."""
    return _pack_header(HEADER_BYTES + len(body), command, status, sequence) + body
