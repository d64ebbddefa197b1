"""Rule: texts that others wrote, in CSV that is opened with a spreadsheet.

A spreadsheet takes a cell that begins with = + - or @ for a formula, which may call other programs or send
what stands in other cells elsewhere (https://owasp.org/www-community/attacks/CSV_Injection). Such a cell gets
a quote before it, which a spreadsheet shows as text. A number stays one: +4915112345678, -5, -0.5.
"""

from __future__ import annotations

import re

# Read by Python and by ClickHouse (RE2) alike.
FORMULA = r"^[-=+@\t\r\n]"
NUMBER = r"^[-+][0-9]+([.][0-9]+)?$"


def as_cell(text: str) -> str:
    """The text as a cell that is no formula."""
    return f"'{text}" if re.search(FORMULA, text) and not re.fullmatch(NUMBER, text) else text
