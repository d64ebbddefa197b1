"""Records that a holder of credit and the ledger exchange.

They are MessagePack arrays on Redis streams: their order is the wire format, and fields
may only be added at the end, with a default.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class QuotaRequest(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A holder asks the ledger for quota of one organisation."""

    # Counts up per holder incarnation, over all organisations of the shard.
    number: int
    organisation_id: int
    # Units that would carry it for a while.
    wanted: int
    # Fewer than these would serve nobody who waits.
    needed: int
    # These would serve all who wait.
    waiting: int = 0


class QuotaReturn(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A holder gives unspent quota back."""

    organisation_id: int
    units: int
    # The recall it answers, 0 when the holder does so of itself.
    recall: int = 0


class LedgerAnswer(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The ledger's word to a holder, in its inbox.

    grant   `units` more quota, for request `number`
    refusal for request `number`: at the instant of refusal `available` did not cover it
    recall  return what is not reserved; `number` is the recall's
    """

    kind: Literal["grant", "refusal", "recall"]
    number: int
    organisation_id: int
    units: int = 0
    epoch: int = 0
