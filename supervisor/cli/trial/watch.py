"""What goes over the wire in a trial, as steps: PDUs of SMPP, and requests and answers of HTTP.

Secrets are masked. The number of the trial is shown, because the operator gave it; what a provider sends
about other messages on the same session is shown without numbers and texts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from engine.activity.numbers import numbers_agree
from engine.providers.masking import as_text, masked_form, printable, without_secrets
from engine.providers.ports import WireEvent
from engine.providers.secret import secret_spellings
from engine.providers.settings import ProviderSettings, SmppSettings
from engine.providers.smpp.codes import Command
from engine.providers.smpp.pdu import Pdu, Reader, pack
from supervisor.cli.trial.smpp_words import SECRET, command_name, fields_of
from supervisor.cli.trial.steps import Steps

_BINDS = frozenset({Command.bind_transceiver_resp, Command.bind_transmitter_resp})
_ENQUIRES = frozenset({Command.enquire_link, Command.enquire_link_resp})
# Of a session, so many questions whether the other side lives, and their answers, are shown.
_ENQUIRES_SHOWN = 4
_BODY_CHARACTERS_MAX = 4000


class Watch(Protocol):
    """Shows what goes over the wire of one kind of provider."""

    # Its result: "" when a message can be sent, else why none can.
    ready: asyncio.Future[str]

    def __call__(self, connection: object, event: WireEvent, octets: bytes) -> None:
        """See `engine.providers.ports.Wire`."""

    def flush(self) -> None:
        """Show what is held back until its end is known."""


def watch_of(settings: ProviderSettings, to: str, steps: Steps) -> Watch:
    """The watch for this kind of provider; `to` is the number of the trial. Raises ConfigError."""
    if isinstance(settings, SmppSettings):
        return SmppWatch(to, steps)
    return HttpWatch(secret_spellings(settings), steps)


class SmppWatch:
    """Shows PDUs."""

    def __init__(self, to: str, steps: Steps) -> None:
        self.ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._to = to
        self._steps = steps
        self._readers: dict[tuple[int, WireEvent], Reader] = {}
        self._enquires = 0
        self._failed = False

    def __call__(self, connection: object, event: WireEvent, octets: bytes) -> None:
        """See `Watch`."""
        if event in ("sent", "received"):
            reader = self._readers.setdefault((id(connection), event), Reader())
            for pdu in reader.feed(octets):
                if isinstance(pdu, Pdu):
                    self._show(event, pdu)
                else:
                    self._steps.add(event, "octets that are no SMPP", str(pdu), body=masked_form(octets, 400))
            return
        words = octets.decode(errors="replace")
        if event == "connected":
            self._steps.add(event, detail=words)
        elif not self._failed or event == "failed":
            # A connection that could not be made is reported as closed too.
            self._steps.add(event, detail=words)
        self._failed = event == "failed"
        if event != "connected" and not self.ready.done():
            self.ready.set_result(words)

    def flush(self) -> None:
        """See `Watch`."""

    def _show(self, event: WireEvent, pdu: Pdu) -> None:
        if pdu.command_id in _ENQUIRES:
            self._enquires += 1
            if self._enquires > _ENQUIRES_SHOWN:
                return
        fields, octets = fields_of(pdu), b""
        foreign = pdu.command_id in (Command.deliver_sm, Command.data_sm) and not self._ours(fields)
        if foreign:
            fields = {name: masked_form(value, 400) for name, value in fields.items()}
        elif pdu.command_id not in SECRET:
            octets = pack(pdu.command_id, pdu.status, pdu.sequence, pdu.body)
        about = " (about another number)" if foreign else ""
        detail = f"sequence {pdu.sequence}{about}"
        self._steps.add(
            "sent" if event == "sent" else "received",
            command_name(pdu.command_id), detail, fields=fields, octets=octets,
        )  # fmt: skip
        if event == "received" and pdu.command_id in _BINDS and pdu.status == 0 and not self.ready.done():
            self.ready.set_result("")

    def _ours(self, fields: dict[str, str]) -> bool:
        digits = "".join(c for c in fields.get("source_addr", "") if c in "0123456789")
        return bool(numbers_agree(digits, self._to))


class HttpWatch:
    """Shows requests, and answers once they are whole."""

    def __init__(self, known: Sequence[str], steps: Steps) -> None:
        self.ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        # Connections are made when there is a request.
        self.ready.set_result("")
        self._known = known
        self._steps = steps
        self._answer = b""

    def __call__(self, connection: object, event: WireEvent, octets: bytes) -> None:
        """See `Watch`."""
        if event == "received":
            self._answer += octets
        elif event == "sent":
            self._show("sent", octets)
        else:
            self.flush()
            self._steps.add(event, detail=octets.decode(errors="replace"))

    def flush(self) -> None:
        """See `Watch`."""
        answer, self._answer = self._answer, b""
        if answer:
            self._show("received", answer)

    def _show(self, event: WireEvent, octets: bytes) -> None:
        head, _, body = octets.partition(b"\r\n\r\n")
        text = without_secrets(as_text(head), self._known)
        first, *lines = text.split("\r\n")
        fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        shown = without_secrets(as_text(body), self._known)
        self._steps.add(
            "sent" if event == "sent" else "received",
            printable(first),
            fields={printable(name): printable(value) for name, value in fields.items()},
            body="\n".join(map(printable, shown[:_BODY_CHARACTERS_MAX].splitlines())),
        )
