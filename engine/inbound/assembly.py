"""Rule: which parts make a message, and when no more of them is waited for.

Parts belong together that came from one provider, from one sender to one number with one reference, and that
say the same count. A part that came twice under another form counts once. A message whose parts have not all
come in time is given as it is, with the parts that there are; one that comes later is a message by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engine.inbound.records import Assembled, KeptPart

# More than any handset cuts a message into.
_PARTS_MAX = 255
TEXT_CHARACTERS_MAX = 20_000


def assemble(kept: Sequence[KeptPart], now_us: int, wait_us: int) -> list[Assembled]:
    """The messages that are complete at `now_us`, or have waited for `wait_us`, in the order of their first
    parts. The parts that are in none of them are still waited for."""
    groups: dict[tuple[object, ...], dict[int, list[KeptPart]]] = {}
    for one in kept:
        part = one.part
        whole = not part.reference or not 1 <= part.part <= part.parts <= _PARTS_MAX or part.parts == 1
        key = (
            (one.stream_id,)
            if whole
            else (part.provider, part.sender, part.recipient, part.reference, part.parts)
        )
        groups.setdefault(key, {}).setdefault(part.part, []).append(one)
    found = []
    for by_part in groups.values():
        every = [one for same in by_part.values() for one in same]
        first = min(every, key=lambda one: one.stream_id)
        count = 1 if len(every) == 1 and not _is_part(first) else first.part.parts
        if len(by_part) >= count or now_us - first.part.at_us >= wait_us:
            found.append(_joined(by_part, every, first, max(0, count - len(by_part))))
    return sorted(found, key=lambda message: message.stream_ids[0])


def _is_part(one: KeptPart) -> bool:
    return bool(one.part.reference) and 1 <= one.part.part <= one.part.parts <= _PARTS_MAX


def _joined(
    by_part: dict[int, list[KeptPart]], every: Iterable[KeptPart], first: KeptPart, missing: int
) -> Assembled:
    octets = b"".join(by_part[number][0].part.utf16 for number in sorted(by_part))
    text = octets.decode("utf-16-be", "replace").replace("\0", "")[:TEXT_CHARACTERS_MAX]
    return Assembled(tuple(sorted(one.stream_id for one in every)), first.part, text, missing)
