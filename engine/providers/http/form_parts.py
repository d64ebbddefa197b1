"""Rule: the fields of a form in parts, `multipart/form-data` (RFC 7578).

Some HTTP libraries send a form so whenever it is given to them as a table: PHP's curl, for one. The first
line of the body is the boundary, whatever the header says of it.
"""

from __future__ import annotations

import re

from engine.errors import Refusal

_NAME = re.compile(
    rb"^content-disposition[ \t]*:[^\r\n]*[;\s]name[ \t]*=[ \t]*(?:\"([^\"\r\n]*)\"|([^\s;]+))",
    re.IGNORECASE | re.MULTILINE,
)
_HEAD_END = re.compile(rb"\r?\n\r?\n")


def parts_of(body: bytes, fields_max: int) -> dict[str, str]:
    """The values by name; of a name given twice the first counts. Octets that are no UTF-8 are replaced.

    Raises Refusal 400 for a body of more than `fields_max` parts, or whose parts cannot be told apart.
    """
    body = body.lstrip(b"\r\n")
    boundary = body.partition(b"\n")[0].rstrip()
    # An end of line stands before each boundary, and belongs to it.
    parts = re.split(rb"\r?\n" + re.escape(boundary), b"\n" + body)[1:]
    if len(boundary) < 3 or len(parts) < 2 or len(parts) > fields_max + 1:
        raise Refusal("invalid_body", 400, f"The body must be a form with 1 to {fields_max} parts.")
    fields: dict[str, str] = {}
    for part in parts:
        # What stands behind the last boundary, "--", has no head.
        head, *rest = _HEAD_END.split(part, maxsplit=1)
        if rest and (found := _NAME.search(head)):
            name = (found[1] if found[1] is not None else found[2]).decode(errors="replace")
            fields.setdefault(name, rest[0].decode(errors="replace"))
    return fields
