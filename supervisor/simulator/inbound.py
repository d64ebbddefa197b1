"""Messages that a recipient writes: `POST /inbound` has the simulated provider bring one to the engine.

    {"from": "+4915112345678", "to": "12345", "text": "STOP"}                       over SMPP
    {"from": ..., "to": ..., "text": ..., "url": "http://127.0.0.1:8080/v1/..."}    over HTTP, as JSON

Over SMPP it goes over a session that may receive, of `system_id` or of any; a long text goes in parts with a
user data header. Like a receipt it is brought again until it is acknowledged.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import urlsplit

import msgspec

from engine.errors import Refusal
from engine.intake.segments import measure, split
from engine.providers.smpp.alphabet import unpacked
from engine.providers.smpp.body import ShortMessage, encode_short_message
from supervisor.simulator.receipts import Post, Receipt, Sent

_UCS2, _HAS_HEADER = 8, 0x40
_INTERNATIONAL, _E164 = 1, 1


class _Written(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sender: str = msgspec.field(name="from")
    recipient: str = msgspec.field(name="to")
    text: str
    system_id: str = ""
    # Where the engine takes the messages of this provider: it goes over HTTP then.
    url: str = ""


class _Json(msgspec.Struct, frozen=True):
    id: str
    sender: str = msgspec.field(name="from")
    recipient: str = msgspec.field(name="to")
    text: str


class Handsets:
    """Writes messages to the engine."""

    def __init__(self, post: Post, receivers: Callable[[], list[str]]) -> None:
        """`receivers`: the system_ids of which a session may receive."""
        self._post = post
        self._receivers = receivers
        self._numbers = itertools.count(1)

    def write(self, body: bytes) -> dict[str, int]:
        """Bring the message in `body`; in how many parts. Raises Refusal 400, 409."""
        try:
            written = msgspec.json.decode(body, type=_Written)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
            raise Refusal("wrong_message", 400, f"The body must be a message: {e}.") from e
        bodies = [self._json(written)] if written.url else self._deliver_sms(written)
        system_id = None if written.url else self._receiver(written.system_id)
        sent = Sent(message_id="", source=written.recipient, destination=written.sender, system_id=system_id)
        now_s = time.time()
        for one in bodies:
            receipt = Receipt(
                sent=sent, id="", state="pending", sent_s=now_s, made_s=now_s, body=one, url=written.url
            )
            self._post.post(time.monotonic(), receipt)
        return {"parts": len(bodies)}

    def _receiver(self, wanted: str) -> str:
        receivers = self._receivers()
        if wanted in receivers or (not wanted and receivers):
            return wanted or receivers[0]
        detail = "No SMPP session may receive; bind one, or give the url of the engine's HTTP API."
        raise Refusal("no_session", HTTPStatus.CONFLICT, detail, "system_id")

    def _json(self, written: _Written) -> bytes:
        parts = urlsplit(written.url)
        if parts.scheme != "http" or not parts.hostname:
            raise Refusal("wrong_message", 400, "url must look like http://HOST:PORT/PATH.", "url")
        number = f"mo{next(self._numbers)}-{time.time_ns()}"
        return msgspec.json.encode(_Json(number, written.sender, written.recipient, written.text))

    def _deliver_sms(self, written: _Written) -> list[bytes]:
        wide = measure(written.text).encoding == "UCS-2" if written.text else False
        texts = split(written.text) if written.text else [""]
        reference = next(self._numbers) % 256
        bodies = []
        for place, text in enumerate(texts, 1):
            header = b"\x05\x00\x03%c%c%c" % (reference, len(texts), place) if len(texts) > 1 else b""
            octets = text.encode("utf-16-be", "replace") if wide else unpacked(text)
            try:
                bodies.append(
                    encode_short_message(
                        ShortMessage(
                            source_ton=_INTERNATIONAL,
                            source_npi=_E164,
                            source=written.sender.removeprefix("+"),
                            destination=written.recipient.removeprefix("+"),
                            esm_class=_HAS_HEADER if header else 0,
                            data_coding=_UCS2 if wide else 0,
                            short_message=header + octets,
                        )
                    )
                )
            except ValueError as e:
                raise Refusal("wrong_message", 400, f"The message cannot be written: {e}") from e
        return bodies
