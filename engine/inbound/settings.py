"""`[inbound]` of the configuration: the words that are heeded, by language."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

_Words = list[Annotated[str, Meta(min_length=1, max_length=40)]]


class Words(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The words of one language, in any case."""

    # The sender wants no more messages.
    stop: _Words = []
    # The sender wants messages again.
    start: _Words = []
    # The sender asks what this is about.
    help: _Words = []


# By language (ISO 639-1).
DEFAULTS: dict[str, Words] = {
    "en": Words(
        stop=[
            "STOP",
            "STOPALL",
            "STOP ALL",
            "UNSUBSCRIBE",
            "CANCEL",
            "END",
            "QUIT",
            "OPTOUT",
            "OPT OUT",
            "OPT-OUT",
            "REVOKE",
        ],
        start=["START", "UNSTOP", "SUBSCRIBE"],
        help=["HELP", "INFO"],
    ),
    "de": Words(stop=["STOPP", "ABMELDEN", "ABBESTELLEN"], start=["ANMELDEN"], help=["HILFE"]),
    "fr": Words(stop=["ARRET", "ARRÊT", "ARRETER", "ARRÊTER"], start=["REPRENDRE"], help=["AIDE"]),
    "es": Words(stop=["BAJA", "PARAR", "CANCELAR"], start=["ALTA"], help=["AYUDA"]),
    "pt": Words(stop=["SAIR", "PARAR", "CANCELAR"], start=["VOLTAR"], help=["AJUDA"]),
    "it": Words(stop=["CANCELLA", "FERMA"], start=["INIZIA"], help=["AIUTO"]),
    "nl": Words(stop=["AFMELDEN", "STOPPEN"], start=["AANMELDEN"]),
    "fa": Words(stop=["لغو", "لغو۱۱", "لغو11"], help=["راهنما"]),
}


class Inbound(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[inbound]`: messages that recipients write."""

    # A message is given without the parts that have not come so long after the first, seconds.
    part_wait_s: Annotated[float, Meta(ge=1, le=86400)] = 120.0
    # By language; those of a language that is named stand in place of its defaults.
    words: dict[str, Words] = {}

    def all_words(self) -> dict[str, Words]:
        """The words of every language: those that the file names, and the defaults of the others."""
        return {**DEFAULTS, **self.words}
