"""Rule: what a provider sent about a message that is not at hand, as its form alone.

Nobody can tell a word of a provider from a word of a text. So names of fields and what stands around values
are kept, and so are the values that an operator looks for:

    ids                 after a name that ends in `id`
    times               after `date`, `time`, `timestamp` and names that end in them
    states and codes    one word or a few digits after `stat`, `err`, `status`, `state` and the like
    words of states     such as DELIVRD, wherever they stand

Any other value, any string in quotes and any run of words is replaced by its kind and length: `<text 23>`.
Four digits or more are `<digits 6>`; of seven or more, which may be a number, the first three are kept.
"""

from __future__ import annotations

import re

# What joins a name and its value, also as a URL writes it.
_JOINED = r"\s*(?:[:=]|%3a|%3d)\s*"
_STATES = (
    "deliver(?:ed|d)|delivrd|undeliv(?:ered|erable)?|accept(?:ed|d)|enroute|expired|deleted|reject(?:ed|d)"
    "|unknown|failed|sent|submitted|queued|buffered|pending|http/1[.][01] [0-9]{3}|doctype|html|null|true"
    "|false"
)
_ID = rf"(?:[a-z_-]{{0,20}}_|message-?|msg|sms)?id(?P<id_quote>\\?[\"'])?{_JOINED}"
_DATE = rf"(?:(?:submit|done)[ +_-]?)?(?:date|time|timestamp)(?P<date_quote>\\?[\"'])?{_JOINED}"
_STATE = (
    r"(?:sub|dlvrd|stat|err|(?:message|delivery|dlr|sms)?[_-]?(?:status|state)|(?:err(?:or)?|status)[_-]?code"
    rf"|code|reason)(?P<state_quote>\\?[\"'])?{_JOINED}"
)
# Nothing of a value may follow what is kept of it; the quote that ends it is taken too.
_END = r"""(?:\\?["'](?=[\s,}\])>/?]|$)|(?=[\s&,;}<\])|]|$))"""
_OPEN = r"""(?:\\?["'])?"""
_PLAIN = re.compile(rf"(?:{_STATES}|\d{{1,3}}|\*\*\*)", re.IGNORECASE)
_TEXT_CHARACTER = r"[^\W_]|[\x04-\x08\x0b\x0c\x0e-\x1f\x7f-\xa0]|[^\x00-\x7f]"
_TOKEN = re.compile(
    # A name in JSON, one behind the octet that says how long a text of SMPP is, or any other.
    rf"(?P<field>(?:[{{,]\s*\\?[\"']|(?<=\0)[!-~]|(?<![a-z0-9]))(?:{_ID}{_OPEN}[\w-]{{1,100}}{_END}"
    rf"|{_DATE}{_OPEN}(?:\d{{10,14}}(?!\d)|\d{{4}}-\d\d-\d\d[T +]?[\d:.%aAZ+-]{{0,30}}){_END}"
    rf"|{_STATE}{_OPEN}(?:[a-z_-]{{1,24}}|\d{{1,3}}){_END}))"
    # A name before a number; one in JSON; one in a query, a form or a line, whose value has no quotes; one
    # before a quote.
    rf"|(?P<party>(?<![a-z0-9])(?:to|from|msisdn|number|phone){_JOINED}(?=\+?\d{{7}}))"
    r"|(?P<name>[{,]\s*\\?\"[\w .-]{1,40}\\?\"\s*:\s*(?P<plain>[^\s\"'{}\[\],]*)"
    rf"|(?:(?<=[?&\n])|\A)[\w.\[\]-]{{1,40}}{_JOINED}(?P<value>[^&\r\n\"'<]*)"
    rf"|(?<=\s)[\w.-]{{1,40}}=(?=[\"']))"
    r"|(?P<tag></?[a-z][\w:-]{0,30}(?=[\s/>]))"
    r"|(?P<quote>\\?\")(?P<quoted>(?:\\[^\"]|[^\"\\])*)(?P<end>\\?\"|\\?\Z)"
    r"|(?P<apostrophe>(?<!\w)')(?P<single>[^']*)(?P<closed>'|\Z)"
    r"|(?P<number>\+?\d(?:\0?[ ().-]{0,2}\0?\d){3,}(?![^\W_]))"
    rf"|(?P<state>(?<![^\W_])(?:{_STATES})(?![^\W_]))"
    r"|(?P<octets>(?:[\x04-\x08\x0b\x0c\x0e-\x1f][^\x00\n]){2,})"
    r"|(?P<small>(?<![^\W_])\d{1,3}(?![^\W_]))"
    rf"|(?P<words>(?:{_TEXT_CHARACTER})(?:[\0 .'_-]{{0,3}}(?:{_TEXT_CHARACTER}))*)",
    re.IGNORECASE,
)


def form_of(text: str) -> str:
    """`text` with its contents replaced; see the top."""
    return _TOKEN.sub(_shown, text)


def kind_of(value: str) -> str:
    """What stands in the place of a value: its kind and its length in characters.

    A word of a state, a few digits and what is masked already stay as they are.
    """
    if _PLAIN.fullmatch(value):
        return value
    value = value.replace("\0", "")
    digits = re.sub(r"[ ().+-]", "", value)
    if digits.isdigit():
        return f"{digits[:3]}***" if len(digits) > 6 else f"<digits {len(digits)}>"
    return f"<text {len(value)}>" if value else ""


def _shown(found: re.Match[str]) -> str:
    whole = found[0]
    if found["name"] is not None:
        value = found["plain"] or found["value"] or ""
        return whole[: len(whole) - len(value)] + kind_of(value)
    if found["quote"]:
        return found["quote"] + kind_of(found["quoted"]) + found["end"]
    if found["apostrophe"]:
        return "'" + kind_of(found["single"]) + found["closed"]
    if found["number"] or found["octets"] or found["words"]:
        return kind_of(whole)
    return whole
