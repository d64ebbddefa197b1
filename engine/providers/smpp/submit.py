"""A message as the bodies of the submit_sm (SMPP 3.4, 4.4.1) that carry it.

Octets that are the same for every message of a provider are made once; those that are the same
for a sender, or for a second, are kept. A message that is sent again has the same parts with the
same reference, so that a handset joins parts of both attempts: when each attempt loses another
segment, the text is whole still.

Sender and type of number, unless the settings fix it:

    ""                       0, 0   the provider's own choice
    "+" or over 6 digits     1, 1   international, E.164; written without the "+"
    up to 6 digits           3, 0   short code: network specific
    anything else            5, 0   alphanumeric
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from struct import Struct
from zlib import crc32

from engine.errors import ConfigError
from engine.intake.segments import UNITS_SINGLE
from engine.providers.settings import SmppSettings
from engine.providers.smpp._short_way import add_bodies
from engine.providers.smpp.body import (
    ADDRESS_OCTETS,
    PARAMETER_OCTETS_MAX,
    SERVICE_TYPE_OCTETS,
    SHORT_MESSAGE_OCTETS_MAX,
    encode_parameters,
    octets,
)
from engine.providers.smpp.codes import Tag
from engine.providers.smpp.text import Form, TextWriter, parts, written
from engine.records import Message

SHORT_CODE_DIGITS_MAX = 6
# At most 30 days, written as days: the length of a month depends on the provider's calendar.
_VALIDITY_S_MAX = 30 * 86_400
# Segments are numbered in one octet, from 1.
_SEGMENTS_MAX = 255
_SENDERS_KEPT = 1024
_MIDDLES_KEPT = 1024
# Members of an enumeration are slow to look up.
_PAYLOAD, _SAR_REFERENCE = int(Tag.message_payload), int(Tag.sar_msg_ref_num)
_SAR_TOTAL, _SAR_NUMBER = int(Tag.sar_total_segments), int(Tag.sar_segment_seqnum)
_OURS = {_PAYLOAD, _SAR_REFERENCE, _SAR_TOTAL, _SAR_NUMBER}

_UDH_OCTETS = 6
# The NUL of destination_addr, esm_class, protocol_id, priority_flag, schedule_delivery_time.
_PLAIN, _WITH_UDH = b"\0\0\0\0\0", b"\0\x40\0\0\0"
# registered_delivery, replace_if_present_flag, data_coding, sm_default_msg_id, sm_length.
_pack_five = Struct(">BBBBB").pack
# User data header, 3GPP TS 23.040, 9.2.3.24.1: its length, element 0 of 3 octets (reference,
# number of parts, this part).
_pack_udh = Struct(">BBBBBB").pack
_pack_sar = Struct(">HHHHHBHHB").pack
_pack_tag_length = Struct(">HH").pack


class SubmitEncoder:
    """Makes bodies of submit_sm for one provider.

    Raises ConfigError naming the setting with which no message could ever be sent.
    """

    def __init__(self, settings: SmppSettings) -> None:
        where = f"providers.{settings.name}"
        for name in ("source_ton", "source_npi", "destination_ton", "destination_npi"):
            value = getattr(settings, name)
            if value is not None and not 0 <= value <= 255:
                raise ConfigError(f"{where}.{name} must be from 0 to 255, not {value}.")
        try:
            self._service_type = octets("service_type", settings.service_type, SERVICE_TYPE_OCTETS)
        except ValueError:
            raise ConfigError(
                f"{where}.service_type must be at most {SERVICE_TYPE_OCTETS - 1} characters of Latin-1."
            ) from None
        self._parameters = encode_parameters(_parameters(settings.parameters, where))
        self._id_tag = _tag(settings.message_id_parameter, f"{where}.message_id_parameter")
        self._source_ton, self._source_npi = settings.source_ton, settings.source_npi
        self._destination_types = bytes((settings.destination_ton, settings.destination_npi))
        self._registered = 1 if settings.receipts else 0
        self._texts = TextWriter(settings)
        self._concatenation = settings.concatenation
        self._straight, self._octets = self._id_tag is None, self._texts.octets
        # Before the octet with the text's length, of a text that goes the short way. And all that is between
        # the destination's digits and it, by the end of the message, in whole seconds from now, or from 1970.
        self._before_length = bytes((self._registered, 0, self._texts.plain_coding, 0))
        self._middles: dict[int, bytes] = {}
        self._middles_s = 0
        # Everything before the destination's digits, by sender.
        self._before: dict[str, bytes] = {}
        self._validity_form = settings.validity_period
        self._from_now = settings.validity_period == "relative"

    def bodies(self, message: Message, now_us: int) -> list[bytes]:
        """One body for each submit_sm, in the order of the segments.

        Raises ValueError, which names the field, for a message that SMPP cannot carry. Of those that
        ingest accepts, these are only messages whose sender has a Greek capital.
        """
        [found] = self.all_bodies((message,), now_us)
        if isinstance(found, ValueError):
            raise found
        return list(found)

    def all_bodies(self, messages: Sequence[Message], now_us: int) -> list[Sequence[bytes] | ValueError]:
        """What `bodies` returns or raises, for each of `messages`."""
        middles = self._middles
        if now_us // 1_000_000 != self._middles_s:
            # What is absolute may have passed meanwhile.
            self._middles_s = now_us // 1_000_000
            middles.clear()
        found: list[Sequence[bytes] | ValueError] = []
        from_us = now_us if self._from_now else 0
        while len(found) < len(messages):
            if self._straight:
                # Nearly all messages go this short way.
                add_bodies(found, messages, self._octets, self._before, middles, from_us, self._parameters)
                if len(found) == len(messages):
                    break
            try:
                found.append(self._any_bodies(messages[len(found)], now_us))
            except ValueError as e:
                found.append(e)
        return found

    def _any_bodies(self, message: Message, now_us: int) -> list[bytes]:
        bodies = self._bodies(message, now_us)
        if self._id_tag is None:
            return bodies
        own_id = encode_parameters({self._id_tag: message.id.encode()})
        return [body + own_id for body in bodies]

    def _bodies(self, message: Message, now_us: int) -> list[bytes]:
        before = self._before.get(message.sender)
        if before is None:
            before = self._before_destination(message.sender)
        to = message.to.removeprefix("+")
        if not (to.isascii() and to.isdecimal() and len(to) < ADDRESS_OCTETS):
            raise ValueError(f"to must be 1 to {ADDRESS_OCTETS - 1} digits.")
        addressed = before + to.encode("ascii")
        validity = self._validity_period(message, now_us)
        form = self._texts.form(message)
        coding = self._texts.data_coding(form)
        if self._concatenation == "payload":
            text = written(message.text, form, 0)
            if message.segments == 1 and (form != "ucs2" or len(text) <= 2 * UNITS_SINGLE):
                return [self._body(addressed, _PLAIN, validity, coding, text)]
            if len(text) > PARAMETER_OCTETS_MAX:
                raise ValueError(f"text is longer than {PARAMETER_OCTETS_MAX} octets.")
            payload = _pack_tag_length(_PAYLOAD, len(text)) + text
            return [self._body(addressed, _PLAIN, validity, coding, b"", payload)]
        texts = parts(message, form)
        if len(texts) == 1:
            return [self._body(addressed, _PLAIN, validity, coding, written(texts[0], form, 0))]
        if len(texts) > _SEGMENTS_MAX:
            raise ValueError(f"text needs {len(texts)} segments; allowed are {_SEGMENTS_MAX}.")
        reference = concatenation_reference(message.id)
        if self._concatenation == "udh":
            return self._with_udh(reference, texts, form, addressed, validity)
        return self._with_sar(reference, texts, form, addressed, validity)

    def _with_udh(
        self, reference: int, texts: list[str], form: Form, addressed: bytes, validity: bytes
    ) -> list[bytes]:
        coding, total = self._texts.data_coding(form), len(texts)
        return [
            self._body(
                addressed,
                _WITH_UDH,
                validity,
                coding,
                _pack_udh(5, 0, 3, reference & 0xFF, total, number) + written(text, form, _UDH_OCTETS),
            )
            for number, text in enumerate(texts, 1)
        ]

    def _with_sar(
        self, reference: int, texts: list[str], form: Form, addressed: bytes, validity: bytes
    ) -> list[bytes]:
        """The provider makes a header of the parameters: the parts are those that leave it room,
        and packed ones begin without fill bits, which only a header calls for."""
        coding, total = self._texts.data_coding(form), len(texts)
        return [
            self._body(
                addressed, _PLAIN, validity, coding, written(text, form, 0), _sar(reference, total, number)
            )
            for number, text in enumerate(texts, 1)
        ]

    def _body(
        self, addressed: bytes, options: bytes, validity: bytes, coding: int, text: bytes, tlvs: bytes = b""
    ) -> bytes:
        length = len(text)
        if length > SHORT_MESSAGE_OCTETS_MAX:
            raise ValueError(f"short_message is longer than {SHORT_MESSAGE_OCTETS_MAX} octets.")
        return b"".join(
            (
                addressed,
                options,
                validity,
                _pack_five(self._registered, 0, coding, 0, length),
                text,
                tlvs,
                self._parameters,
            )
        )

    def _before_destination(self, sender: str) -> bytes:
        ton, npi, address = _source(sender)
        ton = ton if self._source_ton is None else self._source_ton
        npi = npi if self._source_npi is None else self._source_npi
        source = octets("from", address, ADDRESS_OCTETS)
        before = b"".join((self._service_type, bytes((ton, npi)), source, self._destination_types))
        if len(self._before) >= _SENDERS_KEPT:
            self._before.clear()
        self._before[sender] = before
        return before

    def _validity_period(self, message: Message, now_us: int) -> bytes:
        """The time that is left to the message as validity_period with its NUL.

        7.1.1, relative: years, months, days, hours, minutes, seconds, "000R". Absolute: the same of
        the date in UTC, tenths of a second, quarters of an hour from UTC, "+". Whole seconds,
        rounded down: a provider that still tries later than the organisation allowed
        delivers what nobody wants any more. At least one second from now, because nothing (or zeros)
        means the provider's own default, often days; a relative one is at most 30 days.
        """
        end_s = (message.expires_at_us - (now_us if self._from_now else 0)) // 1_000_000
        match self._validity_form:
            case "relative":
                validity = _duration(max(end_s, 1))
            case "absolute":
                validity = _time(max(end_s, now_us // 1_000_000 + 1))
            case "none":
                validity = b"\0"
        if len(self._middles) >= _MIDDLES_KEPT:
            self._middles.clear()
        self._middles[end_s] = b"".join((_PLAIN, validity, self._before_length))
        return validity


def _duration(seconds: int) -> bytes:
    minutes, second = divmod(min(seconds, _VALIDITY_S_MAX), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return b"0000%02d%02d%02d%02d000R\0" % (days, hour, minute, second)


def _time(at_s: int) -> bytes:
    return datetime.fromtimestamp(at_s, UTC).strftime("%y%m%d%H%M%S000+").encode() + b"\0"


def concatenation_reference(message_id: str) -> int:
    """16 bits that all segments of a message share, however often it is sent.

    The last bits of a message's id count up in the process that made it: of its messages,
    256 in a row differ even in the 8 bits of the shorter header.
    """
    try:
        return int(message_id[-4:], 16) & 0xFFFF
    except ValueError:
        return crc32(message_id.encode("utf-8", "surrogatepass")) & 0xFFFF


def _sar(reference: int, total: int, number: int) -> bytes:
    return _pack_sar(_SAR_REFERENCE, 2, reference, _SAR_TOTAL, 1, total, _SAR_NUMBER, 1, number)


def _source(sender: str) -> tuple[int, int, str]:
    """Type of number, numbering plan and address of a sender: see the top."""
    if not sender:
        return 0, 0, ""
    digits = sender.removeprefix("+")
    if not (digits.isascii() and digits.isdecimal()):
        return 5, 0, sender
    if len(sender) <= SHORT_CODE_DIGITS_MAX and sender[0] != "+":
        return 3, 0, digits
    return 1, 1, digits


def _tag(written: str, where: str) -> int | None:
    if not written:
        return None
    if not re.fullmatch("[0-9a-fA-F]{4}", written) or int(written, 16) in _OURS:
        raise ConfigError(f'{where} must be the tag of an optional parameter in four hex digits, or "".')
    return int(written, 16)


def _parameters(written: dict[str, str], where: str) -> dict[int, bytes]:
    parameters: dict[int, bytes] = {}
    for tag, value in written.items():
        if not re.fullmatch("[0-9a-fA-F]{4}", tag):
            raise ConfigError(f'{where}.parameters.{tag}: the tag must be four hex digits, such as "1400".')
        if not re.fullmatch("([0-9a-fA-F]{2})*", value):
            raise ConfigError(f"{where}.parameters.{tag} must be hex, two digits for each octet.")
        if len(value) // 2 > PARAMETER_OCTETS_MAX - SHORT_MESSAGE_OCTETS_MAX:
            raise ConfigError(f"{where}.parameters.{tag} is too long.")
        if int(tag, 16) in _OURS:
            raise ConfigError(
                f"{where}.parameters.{tag} cannot be set: it carries the text; see {where}.concatenation."
            )
        parameters[int(tag, 16)] = bytes.fromhex(value)
    return parameters
