"""Rule: which sender a message has, by what its organisation may use and what its destination takes."""

from __future__ import annotations

from collections.abc import Mapping

from engine.errors import Refusal
from engine.intake.records import SenderKind, SenderRules
from engine.prefix_table import PrefixTable

# A sender of digits alone is a short code up to this length, and a number in national form beyond it.
_SHORT_MAX = 8
_KINDS_IN_WORDS: dict[SenderKind, str] = {
    "name": "a name",
    "short": f"a short code of up to {_SHORT_MAX} digits",
    "long": "a phone number",
}


def kind_of(sender: str) -> SenderKind:
    """What kind a sender is, as `phone_numbers.sender` writes it."""
    if sender[:1] == "+":
        return "long"
    if sender.isdecimal():
        return "short" if len(sender) <= _SHORT_MAX else "long"
    return "name"


class OwnRules:
    """The rules of one organisation, ready to be asked."""

    __slots__ = ("_default", "_destinations", "_senders")

    def __init__(self, rules: SenderRules) -> None:
        self._senders = None if rules.senders is None else frozenset(rules.senders)
        self._default = rules.default
        self._destinations: PrefixTable[bool] | None = None
        if rules.destinations is not None:
            self._destinations = PrefixTable(dict.fromkeys(rules.destinations, True))

    def sender(self, to: str, sender: str) -> str:
        """The sender of a message to `to` that names `sender`, or "". Raises Refusal."""
        self.check_destination(to)
        if not sender:
            return self._default
        if self._senders is not None and sender not in self._senders:
            detail = "`from` must be one of the senders of this organisation: see GET /v1/senders."
            raise Refusal("sender_not_allowed", 422, detail, "from")
        return sender

    def check_destination(self, to: str) -> None:
        """Raise Refusal when the organisation may not send to `to`."""
        if self._destinations is not None and not self._destinations.longest(to, False):
            raise _not_there("`to` must be in a destination that this organisation may send to.")


class DestinationRules:
    """What destinations take, ready to be asked."""

    __slots__ = ("_kinds",)

    def __init__(self, rules: Mapping[str, tuple[SenderKind, ...]]) -> None:
        """`rules`: the kinds of senders, by prefix."""
        self._kinds: PrefixTable[tuple[SenderKind, ...] | None] = PrefixTable(dict(rules))

    @property
    def are_none(self) -> bool:
        """Whether every destination takes every sender."""
        return not self._kinds.values

    def check(self, to: str, sender: str) -> None:
        """Raise Refusal when `to` takes no such sender; "": the provider's, which is nobody's to judge."""
        kinds = self._kinds.longest(to, None)
        if kinds is None:
            return
        if not kinds:
            raise _not_there("`to` must be in a destination that messages are sent to.")
        if sender and kind_of(sender) not in kinds:
            allowed = " or ".join(_KINDS_IN_WORDS[kind] for kind in kinds)
            detail = f"`from` must be {allowed} for this destination, or be left out."
            raise Refusal("sender_not_allowed", 422, detail, "from")


def _not_there(detail: str) -> Refusal:
    return Refusal("destination_not_allowed", 422, detail, "to")
