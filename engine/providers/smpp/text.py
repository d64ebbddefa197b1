"""The text of a message as the octets of its segments on a provider's wire.

The parts are those of `engine.intake.segments`, by which the message was priced, so that no more
are sent than were paid for. The provider's settings only change how each part is written:

    GSM-7, "unpacked"  in the default alphabet, data_coding 0: as GSM-7 an octet for each septet, up
                       to 160; as Latin-1 or ASCII an octet for each character
    GSM-7, "packed"    data_coding 0, eight septets in seven octets; up to 140
    GSM-7, "latin1"    data_coding 3, an octet for each character; the provider makes septets
    UCS-2              data_coding 8, UTF-16 with the high octet first; up to 140

Latin-1 lacks the Greek capitals and the euro sign of GSM-7, and ASCII its accented letters too. All
parts of a message have the same coding, since handsets join no others. So a message with such a
character goes by the first of these ways that can write all of it:

    1. as the settings say
    2. Latin-1, where the default alphabet is ASCII
    3. UCS-2, which every provider understands, when that takes one segment: up to 70 units
    4. unpacked, where the default alphabet is GSM-7. A provider that reads this as something
       else shows a few characters wrongly; as UCS-2 it would need up to three times the segments
       that were paid for
    5. UCS-2 in as many segments as it needs. Under another default alphabet the octets of GSM-7
       would be another text, and half of it lost behind the octet 00 of "@"; refused, the message
       would never arrive by this provider. The organisation pays the segments that were counted at
       intake, because its price cannot depend on which provider takes the message. The rest is
       paid by whoever runs the engine, and is counted: `segments_unpaid`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from engine.errors import Refusal
from engine.intake.segments import UNITS_SINGLE, split, split_ucs2
from engine.providers.settings import SmppSettings
from engine.providers.smpp.alphabet import packed, unpacked
from engine.records import Message

# How texts are written; what is not "ucs2" needs as many segments as were counted.
Form = Literal["unpacked", "packed", "latin1", "ascii", "ucs2"]


class TextWriter:
    """Writes the texts of one provider's messages."""

    def __init__(self, settings: SmppSettings) -> None:
        alphabet, codings = settings.default_alphabet, settings.data_coding
        latin1 = codings.default if alphabet == "latin1" and settings.gsm7 != "latin1" else codings.latin1
        default: Form = "unpacked" if alphabet == "gsm7" else alphabet
        if settings.gsm7 == "latin1":
            forms: list[Form] = ["latin1"]
        elif settings.gsm7 == "packed":
            forms = ["packed"]
        else:
            forms = [default]
        if forms == ["ascii"]:
            forms.append("latin1")
        # By the first form, the octet of each character up to U+00FF; 0 where it is not one octet.
        self.octets = bytes(map(_octet_of(forms[0]), map(chr, range(256))))
        # In the order in which they are tried for a text in GSM-7.
        self._forms = forms
        self._gsm7 = alphabet == "gsm7"
        self._codings: dict[Form, int] = {
            "unpacked": codings.default,
            "packed": codings.default,
            "ascii": codings.default,
            "latin1": latin1,
            "ucs2": codings.ucs2,
        }

    def form(self, message: Message) -> Form:
        """The way by which all of the message is written: see the top."""
        if message.encoding == "UCS-2":
            return "ucs2"
        for form in self._forms:
            if form in ("unpacked", "packed") or _writes(form, message.text):
                return form
        if self._gsm7 and not (message.segments == 1 and len(message.text) <= UNITS_SINGLE):
            return "unpacked"
        return "ucs2"

    @property
    def plain_coding(self) -> int:
        """The data_coding of what is written by `octets`."""
        return self._codings[self._forms[0]]

    def data_coding(self, form: Form) -> int:
        """The data_coding of texts that are written so."""
        return self._codings[form]


def parts(message: Message, form: Form) -> list[str]:
    """The text of each segment. Raises ValueError for a text that no encoding can write."""
    recoded = form == "ucs2" and message.encoding != "UCS-2"
    if message.segments == 1 and not recoded:
        return [message.text]
    try:
        return split_ucs2(message.text) if recoded else split(message.text)
    except Refusal as e:
        raise ValueError(e.detail) from None


def written(text: str, form: Form, header_octets: int) -> bytes:
    """The octets of one part, to stand behind a header of that length.

    Packed septets begin at the first multiple of seven bits behind the header: 3GPP TS
    23.040, 9.2.3.24. Raises ValueError for a text that its encoding does not have.
    """
    match form:
        case "unpacked":
            return unpacked(text)
        case "packed":
            return packed(unpacked(text), -8 * header_octets % 7)
        case "ucs2":
            return _utf16(text)
        case _:
            return text.encode(form)


def _octet_of(form: Form) -> Callable[[str], int]:
    def octet(character: str) -> int:
        if form in ("packed", "ucs2"):
            return 0
        try:
            raw = written(character, form, 0)
        except ValueError:
            return 0
        return raw[0] if len(raw) == 1 else 0

    return octet


def _writes(form: Form, text: str) -> bool:
    try:
        text.encode(form)
    except UnicodeEncodeError:
        return False
    return True


def _utf16(text: str) -> bytes:
    try:
        return text.encode("utf-16-be")
    except UnicodeEncodeError:
        raise ValueError("text contains half of a surrogate pair.") from None
