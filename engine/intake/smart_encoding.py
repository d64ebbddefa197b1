"""Rule: typographic quotes, dashes and spaces become the ones that GSM-7 has, where the caller wants that.

One such character makes a whole text UCS-2, so that it needs about twice as many segments. Each has one equal
of one character; nothing else is changed. A text that needs UCS-2 all the same stays as it is.
"""

from __future__ import annotations

from engine.intake.segments import is_gsm7

_EQUALS = {
    # Quotation marks and apostrophes: Unicode, General Punctuation; Latin-1; U+02BC, the letter apostrophe.
    "'": "\u2018\u2019\u201a\u201b\u2032\u2035\u2039\u203a\u02bc",
    '"': "\u201c\u201d\u201e\u201f\u2033\u2036\u00ab\u00bb",
    # Hyphens, dashes and the minus sign.
    "-": "\u2010\u2011\u2012\u2013\u2014\u2015\u2212",
    # Blanks of all widths but none.
    " ": "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000",
}
_TABLE = {ord(character): equal for equal, some in _EQUALS.items() for character in some}


def replaced(text: str) -> tuple[str, int]:
    """(the text as it is sent, how many of its characters were replaced)."""
    if is_gsm7(text):
        return text, 0
    plain = text.translate(_TABLE)
    if not is_gsm7(plain):
        return text, 0
    return plain, sum(a != b for a, b in zip(text, plain, strict=True))
