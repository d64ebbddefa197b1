"""Takes the receipts of a number away that wait in Redis for their message.

A receipt whose message is not found is set aside for a quarter of an hour, and then recorded in ClickHouse as
one without a message, with its number. What an erasure does not take from here would come back there.

A matcher that has such a receipt in hand meanwhile does not put it back: its step to do so begins with
removing it (`receipts_finish_late`), and finds nothing. Only one that gives it up at that very moment records
it still. Receipts that no matcher has looked at yet stay: they may be of messages that have not ended.

Killed, or never answered: some receipts may be gone; the same erasure may be begun again at any time.
"""

from __future__ import annotations

import msgspec

from engine.activity.numbers import are_digits_of
from engine.receipts.records import LateReceipt
from engine.redis_keys import receipts_later_key
from engine.stores.redis.link import RedisLink

# Members that Redis looks at in one turn.
_COUNT = 1_000
_decode = msgspec.msgpack.Decoder(LateReceipt).decode


class RedisReceiptErasure:
    """`link` belongs to the caller."""

    def __init__(self, link: RedisLink, shards: int) -> None:
        self._link = link
        self._shards = shards

    async def erase(self, number: str) -> None:
        """Remove the receipts that are set aside and have this number, in E.164 with the plus sign.

        Raises Unavailable.
        """
        for shard in range(self._shards):
            key, cursor = receipts_later_key(shard), b"0"
            while True:
                cursor, found = await self._link.call("ZSCAN", key, cursor, "COUNT", _COUNT)
                members = [member for member in found[::2] if _is_of(member, number)]
                if members:
                    await self._link.call("ZREM", key, *members)
                if cursor == b"0":
                    break


def _is_of(member: bytes, number: str) -> bool:
    try:
        return are_digits_of(_decode(member).receipt.to, number)
    except msgspec.MsgspecError:
        # What cannot be read is the matcher's to report.
        return False
