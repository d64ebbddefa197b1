"""Whatever a carrier does, every message gets exactly one verdict, in time; seeded, real sockets."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

import pytest

from engine.providers.smpp.body import decode_short_message
from engine.providers.smpp.codes import Command
from engine.providers.smpp.pdu import Pdu, pack
from tests.providers.scripted import until
from tests.providers.sink import Sink
from tests.providers.smpp.scripted_smsc import (
    RECEIPT,
    Peer,
    ScriptedSmsc,
    accept_bind,
    delivery,
    long_message,
    provider_to,
    smsc,
)

TIMEOUT_S = 1.0


class Chaos:
    """Answers as a seed says."""

    def __init__(self, carrier: ScriptedSmsc, seed: int) -> None:
        self.rng = Random(seed)
        self.carrier = carrier
        # Ids given out, by the text of the segment they were given for.
        self.given: dict[bytes, set[str]] = {}
        carrier.on_bind = self.bind
        carrier.on_submit = self.submit

    def bind(self, peer: Peer, pdu: Pdu) -> None:
        what = self.rng.random()
        if what < 0.1:
            peer.answer(pdu, 0x0D)
        elif what < 0.15:
            peer.close()
        else:
            accept_bind(peer, pdu)

    def submit(self, peer: Peer, pdu: Pdu) -> None:
        what = self.rng.random()
        loop = asyncio.get_running_loop()
        if what < 0.6:
            self.accept(peer, pdu)
        elif what < 0.7:
            loop.call_later(self.rng.random() * 0.3, self.accept, peer, pdu)
        elif what < 0.75:
            loop.call_later(TIMEOUT_S * 1.2, self.accept, peer, pdu)
        elif what < 0.8:
            self.accept(peer, pdu)
            self.accept(peer, pdu)
        elif what < 0.9:
            peer.answer(pdu, self.rng.choice([0x08, 0x0B, 0x14, 0x58, 0x45, 0x400]))
        elif what < 0.97:
            pass
        elif what < 0.98:
            peer.reset()
        elif what < 0.985:
            self.accept(peer, pdu)
            peer.close()
        elif what < 0.99:
            peer.write(b"\0\0\0\x05nonsense")
        elif what < 0.995:
            peer.ask(Command.unbind)
        else:
            peer.write(pack(0x80000004, 0, self.rng.randrange(1 << 31)) + pack(0x123, 0, 1))

    def accept(self, peer: Peer, pdu: Pdu) -> None:
        if peer.closed:
            return
        message_id = self.carrier.next_id()
        self.given.setdefault(decode_short_message(pdu.body).short_message, set()).add(message_id)
        peer.accept(pdu, message_id)
        if self.rng.random() < 0.3:
            peer.ask(Command.deliver_sm, delivery(RECEIPT % (message_id, "DELIVRD")))


@pytest.mark.parametrize("seed", range(6))
async def test_every_message_gets_exactly_one_verdict(seed: int) -> None:
    rng, sink = Random(seed), Sink()
    async with smsc() as carrier:
        chaos = Chaos(carrier, seed)
        sessions, window = rng.choice([1, 2, 3]), rng.choice([2, 10, 50])
        async with provider_to(carrier.port, sink, sessions=sessions, window=window, timeout_s=TIMEOUT_S) as (
            provider,
            verdicts,
        ):
            single = set()
            for _ in range(60):
                for _ in range(rng.randrange(6)):
                    number = len(verdicts.by_message)
                    if rng.random() < 0.8:
                        single.add(number)
                        verdicts.submit(f"m{number}")
                    else:
                        verdicts.submit(long_message(rng.choice([2, 3])))
                sink.keeps = rng.random() < 0.9
                await asyncio.sleep(rng.random() * 0.02)
            await until(lambda: all(verdicts.by_message.values()))
            await provider.stop()
            found = await verdicts.all()
    for number in single:
        if found[number].kind == "accepted":
            # The id of an answer to this very message, not to another.
            assert found[number].provider_message_id in chaos.given[b"m%d" % number]
    kinds = Counter(verdict.kind for verdict in found)
    assert kinds["accepted"] > 0
    assert sum(kinds.values()) == len(verdicts.by_message)
